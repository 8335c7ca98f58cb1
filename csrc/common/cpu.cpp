// The choice of instruction set, and the two operators that tests use to look at it and to lower it.
#include <torch/csrc/stable/library.h>

#include <atomic>

#include "common/checks.h"
#include "common/isa.h"
#include "common/schema.h"

namespace fastgan {
namespace {

const Schema get_schema("cpu_isa() -> int");
const Schema set_schema("set_cpu_isa(int isa) -> ()");

Isa best_isa() {
#if FASTGAN_X86_ISAS
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
      __builtin_cpu_supports("bmi2")) {
    const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
    return wide ? Isa::avx512 : Isa::avx2;
  }
#endif
  return Isa::portable;
}

std::atomic<Isa>& current() {
  static std::atomic<Isa> isa = best_isa();
  return isa;
}

int64_t get_cpu_isa() {
  return static_cast<int64_t>(cpu_isa());
}

void set_cpu_isa(int64_t isa) {
  check(
      isa >= 0 && isa <= static_cast<int64_t>(best_isa()), "set_cpu_isa: isa must be 0 (portable) to ",
      static_cast<int64_t>(best_isa()), ", the best one of this machine, got ", isa);
  current() = static_cast<Isa>(isa);
}

}  // namespace

Isa cpu_isa() {
  return current().load(std::memory_order_relaxed);
}

}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan_native, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&fastgan::get_cpu_isa));
  m.impl("set_cpu_isa", TORCH_BOX(&fastgan::set_cpu_isa));
}
