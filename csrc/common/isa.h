// Which of the instruction sets that the CPU kernels are compiled for runs here; see each_isa.h.
#pragma once

#include <cstdint>

// The x86 copies need GCC's target pragmas. Elsewhere the portable copy is all there is: its 16-byte vectors are SSE2 or NEON.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FASTGAN_X86_ISAS 1
#else
#define FASTGAN_X86_ISAS 0
#endif

namespace fastgan {

enum class Isa : int64_t { portable = 0, avx2 = 1, avx512 = 2 };

// The best one of this machine, or the lower one set by the operator set_cpu_isa (for tests).
Isa cpu_isa();

// One of the copies that each_isa.h made of a function.
template <typename Function>
Function* pick(Function* portable, [[maybe_unused]] Function* avx2, [[maybe_unused]] Function* avx512) {
#if FASTGAN_X86_ISAS
  switch (cpu_isa()) {
    case Isa::avx512:
      return avx512;
    case Isa::avx2:
      return avx2;
    case Isa::portable:
      break;
  }
#endif
  return portable;
}

}  // namespace fastgan

// The copy of fastgan::<isa>::function for this machine.
#if FASTGAN_X86_ISAS
#define FASTGAN_PICK(function) \
  ::fastgan::pick(&::fastgan::portable::function, &::fastgan::avx2::function, &::fastgan::avx512::function)
#else
#define FASTGAN_PICK(function) (&::fastgan::portable::function)
#endif
