// The launches of csrc/bce_with_logits/kernel.cu.
#include "bce_with_logits/kernel.cuh"

#include <algorithm>

#include "common/reduction.h"
#include "jobs.h"

namespace cuda_emulator {
namespace {

using fastgan::BceScratch;
using fastgan::Compute;
using fastgan::compute_t;
using fastgan::kBceThreads;
using fastgan::Reduction;

class Scratch {
 public:
  explicit Scratch(int64_t blocks) : sums_(blocks > 1 ? static_cast<size_t>(blocks) : 0), ticket_(1), needed_(blocks > 1) {
    *ticket_.get() = 0;
  }
  BceScratch pointers() { return needed_ ? BceScratch{sums_.get(), ticket_.get()} : BceScratch{}; }

 private:
  Array<double> sums_;
  Array<unsigned> ticket_;
  bool needed_;
};

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
    Scratch scratch(blocks);
    launch.grid.x = blocks > 0 ? launch.grid.x : 1;
    const double divisor = reduction == Reduction::mean ? static_cast<double>(n) : 1.0;
    run(launch, fastgan::bce_with_logits_kernel<T, true>, input.get(), targets, target_value, loss.get(), grads,
        scratch.pointers(), divisor, n);
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

template <typename T>
void discriminator_forward(Job& job) {
  Launch launch;
  launch.seed = job.word<uint64_t>();
  const auto real_count = job.word<int64_t>(), fake_count = job.word<int64_t>();
  const auto skipped = job.word<size_t>();
  const auto real_target = Compute<T>::load(Compute<T>::store(static_cast<compute_t<T>>(job.word<double>())));
  const bool need_grad = job.word<int>() != 0;
  const auto reals = static_cast<size_t>(real_count), fakes = static_cast<size_t>(fake_count);
  Array<T> real = job.array<T>(reals, skipped), fake = job.array<T>(fakes, skipped), loss(1, skipped);
  Array<T> real_grad(need_grad ? reals : 0, skipped), fake_grad(need_grad ? fakes : 0, skipped);
  const int64_t blocks = fastgan::bce_with_logits_blocks<T>(std::max({real_count, fake_count, int64_t{1}}));
  Scratch scratch(blocks);
  launch.block.x = kBceThreads;
  launch.grid.x = static_cast<unsigned>(blocks);
  run(launch, fastgan::discriminator_loss_kernel<T>, real.get(), fake.get(), real_target, loss.get(),
      need_grad ? real_grad.get() : nullptr, need_grad ? fake_grad.get() : nullptr, scratch.pointers(),
      1.0 / static_cast<double>(real_count), 1.0 / static_cast<double>(fake_count), real_count, fake_count);
  job.answer(loss);
  job.answer(real_grad);
  job.answer(fake_grad);
}

template <typename T>
void discriminator_backward(Job& job) {
  Launch launch;
  launch.seed = job.word<uint64_t>();
  const auto real_count = job.word<int64_t>(), fake_count = job.word<int64_t>();
  const auto skipped = job.word<size_t>();
  const bool in_place = job.word<int>() != 0;
  const auto reals = static_cast<size_t>(real_count), fakes = static_cast<size_t>(fake_count);
  Array<T> real = job.array<T>(reals, skipped), fake = job.array<T>(fakes, skipped), grad_output = job.array<T>(1, skipped);
  Array<T> real_apart(in_place ? 0 : reals, skipped), fake_apart(in_place ? 0 : fakes, skipped);
  Array<T>& real_output = in_place ? real : real_apart;
  Array<T>& fake_output = in_place ? fake : fake_apart;
  launch.block.x = kBceThreads;
  launch.grid.x = static_cast<unsigned>(fastgan::bce_with_logits_blocks<T>(std::max(real_count, fake_count)));
  if (launch.grid.x > 0) {
    run(launch, fastgan::discriminator_loss_backward_kernel<T>, real.get(), fake.get(), grad_output.get(), real_output.get(),
        fake_output.get(), real_count, fake_count);
  }
  job.answer(real_output);
  job.answer(fake_output);
}

}  // namespace

void discriminator_loss(Job& job) {
  with_dtype(job, [&](auto* type) { discriminator_forward<std::remove_pointer_t<decltype(type)>>(job); });
}

void discriminator_loss_backward(Job& job) {
  with_dtype(job, [&](auto* type) { discriminator_backward<std::remove_pointer_t<decltype(type)>>(job); });
}

void bce_with_logits(Job& job) {
  with_dtype(job, [&](auto* type) { forward<std::remove_pointer_t<decltype(type)>>(job); });
}

void bce_with_logits_backward(Job& job) {
  with_dtype(job, [&](auto* type) { backward<std::remove_pointer_t<decltype(type)>>(job); });
}

}  // namespace cuda_emulator
