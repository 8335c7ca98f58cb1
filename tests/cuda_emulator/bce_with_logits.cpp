// The launches of csrc/bce_with_logits/kernel.cu.
#include "bce_with_logits/kernel.cuh"

#include "common/reduction.h"
#include "jobs.h"

namespace cuda_emulator {
namespace {

using fastgan::Compute;
using fastgan::compute_t;
using fastgan::kBceThreads;
using fastgan::Reduction;

template <typename T>
void run_as(Job& job) {
  using C = compute_t<T>;
  Launch launch;
  launch.seed = job.word<uint64_t>();
  const auto n = job.word<int64_t>();
  const auto reduction = static_cast<Reduction>(job.word<int64_t>());
  const auto target_value = Compute<T>::load(Compute<T>::store(static_cast<C>(job.word<double>())));
  const bool has_target = job.word<int>() != 0, need_grad = job.word<int>() != 0;
  const auto count = static_cast<size_t>(n);
  Array<T> input = job.array<T>(count), target = job.array<T>(has_target ? count : 0);
  Array<T> loss(reduction == Reduction::none ? count : 1), grad(need_grad ? count : 0);
  const int64_t blocks = fastgan::bce_with_logits_blocks(n);
  Array<C> sums(static_cast<size_t>(blocks));
  launch.block.x = kBceThreads;
  launch.grid.x = static_cast<unsigned>(blocks);
  const T* const targets = has_target ? target.get() : nullptr;
  T* const grads = need_grad ? grad.get() : nullptr;
  if (reduction == Reduction::none) {
    if (blocks > 0) {
      run(launch, fastgan::bce_with_logits_elementwise_kernel<T, false>, input.get(), targets, target_value, loss.get(), grads,
          static_cast<C*>(nullptr), n);
    }
  } else {
    if (blocks > 0) {
      run(launch, fastgan::bce_with_logits_elementwise_kernel<T, true>, input.get(), targets, target_value,
          static_cast<T*>(nullptr), grads, sums.get(), n);
    }
    launch.grid.x = 1;
    const C divisor = reduction == Reduction::mean ? static_cast<C>(n) : C(1);
    run(launch, fastgan::bce_with_logits_finish_kernel<T>, sums.get(), blocks, divisor, loss.get());
  }
  job.answer(loss);
  job.answer(grad);
}

}  // namespace

void bce_with_logits(Job& job) {
  const auto dtype = job.word<std::string>();
  if (dtype == "float64") {
    return run_as<double>(job);
  }
  if (dtype == "float32") {
    return run_as<float>(job);
  }
  if (dtype == "float16") {
    return run_as<__half>(job);
  }
  if (dtype == "bfloat16") {
    return run_as<__nv_bfloat16>(job);
  }
  throw std::invalid_argument("no such dtype: " + dtype);
}

}  // namespace cuda_emulator
