// The launches of csrc/bce_with_logits/kernel.cu.
#include "bce_with_logits/kernel.cuh"

#include "common/reduction.h"
#include "jobs.h"

namespace cuda_emulator {
namespace {

using fastgan::BceScratch;
using fastgan::Compute;
using fastgan::compute_t;
using fastgan::kBceThreads;
using fastgan::Reduction;

template <typename T>
void forward(Job& job) {
  using C = compute_t<T>;
  Launch launch;
  launch.seed = job.word<uint64_t>();
  const auto n = job.word<int64_t>();
  const auto skipped = job.word<size_t>();
  const auto reduction = static_cast<Reduction>(job.word<int64_t>());
  const auto target_value = Compute<T>::load(Compute<T>::store(static_cast<C>(job.word<double>())));
  const bool has_target = job.word<int>() != 0, need_grad = job.word<int>() != 0;
  const auto count = static_cast<size_t>(n);
  Array<T> input = job.array<T>(count, skipped), target = job.array<T>(has_target ? count : 0, skipped);
  Array<T> loss(reduction == Reduction::none ? count : 1, skipped), grad(need_grad ? count : 0, skipped);
  const T* const targets = has_target ? target.get() : nullptr;
  T* const grads = need_grad ? grad.get() : nullptr;
  const int64_t blocks = fastgan::bce_with_logits_blocks<T>(n);
  launch.block.x = kBceThreads;
  launch.grid.x = static_cast<unsigned>(blocks);
  if (reduction == Reduction::none) {
    if (blocks > 0) {
      run(launch, fastgan::bce_with_logits_kernel<T, false>, input.get(), targets, target_value, loss.get(), grads,
          BceScratch{}, 1.0, n);
    }
  } else {
    Array<double> sums(blocks > 1 ? static_cast<size_t>(blocks) : 0);
    Array<unsigned> ticket(1);
    *ticket.get() = 0;
    launch.grid.x = blocks > 0 ? launch.grid.x : 1;
    const BceScratch scratch = blocks > 1 ? BceScratch{sums.get(), ticket.get()} : BceScratch{};
    const double divisor = reduction == Reduction::mean ? static_cast<double>(n) : 1.0;
    run(launch, fastgan::bce_with_logits_kernel<T, true>, input.get(), targets, target_value, loss.get(), grads, scratch,
        divisor, n);
  }
  job.answer(loss);
  job.answer(grad);
}

template <typename T>
void backward(Job& job) {
  Launch launch;
  launch.seed = job.word<uint64_t>();
  const auto n = job.word<int64_t>();
  const auto skipped = job.word<size_t>();
  const auto divisor = job.word<double>();
  const bool one_number = job.word<int>() != 0, in_place = job.word<int>() != 0;
  const auto count = static_cast<size_t>(n);
  Array<T> gradient = job.array<T>(count, skipped), grad_output = job.array<T>(one_number ? 1 : count, skipped);
  Array<T> apart(in_place ? 0 : count, skipped);
  Array<T>& output = in_place ? gradient : apart;
  launch.block.x = kBceThreads;
  launch.grid.x = static_cast<unsigned>(fastgan::bce_with_logits_blocks<T>(n));
  if (n > 0) {
    const auto kernel =
        one_number ? fastgan::bce_with_logits_backward_kernel<T, true> : fastgan::bce_with_logits_backward_kernel<T, false>;
    run(launch, kernel, gradient.get(), grad_output.get(), divisor, output.get(), n);
  }
  job.answer(output);
}

}  // namespace

void bce_with_logits(Job& job) {
  with_dtype(job, [&](auto* type) { forward<std::remove_pointer_t<decltype(type)>>(job); });
}

void bce_with_logits_backward(Job& job) {
  with_dtype(job, [&](auto* type) { backward<std::remove_pointer_t<decltype(type)>>(job); });
}

}  // namespace cuda_emulator
