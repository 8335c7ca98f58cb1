// Launches of bce_with_logits, discriminator_loss and their backwards on the current stream.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <optional>
#include <type_traits>

#include "bce_with_logits/kernel.cuh"
#include "bce_with_logits/launch.h"
#include "common/cuda_launch.h"

namespace fastgan {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// In memory of torch's allocator, which the stream's order keeps from others until the kernel has ended; the tensor that holds
// it comes with it. The ticket is after the sums. One block needs nothing of this, and gets null pointers.
struct Scratch {
  std::optional<Tensor> memory;
  BceScratch pointers;
};

Scratch make_scratch(const Tensor& like, int64_t blocks, cudaStream_t stream) {
  if (blocks <= 1) {
    return {};
  }
  const std::array<int64_t, 1> shape = {blocks + 1};
  Tensor memory = torch::stable::new_empty(like, shape, ScalarType::Double);
  auto* sums = static_cast<double*>(memory.mutable_data_ptr());
  const BceScratch pointers = {sums, reinterpret_cast<unsigned*>(sums + blocks)};
  STD_CUDA_CHECK(cudaMemsetAsync(pointers.ticket, 0, sizeof(unsigned), stream));
  return {memory, pointers};
}

template <typename T>
void run(const BceWithLogits& problem) {
  using C = compute_t<T>;
  const DeviceAndStream device(problem.input);
  const int64_t n = problem.input.numel();
  const int64_t blocks = bce_with_logits_blocks<T>(n);
  const auto* input = static_cast<const T*>(problem.input.const_data_ptr());
  const auto* target = problem.target.has_value() ? static_cast<const T*>(problem.target->const_data_ptr()) : nullptr;
  auto* loss = static_cast<T*>(problem.loss.mutable_data_ptr());
  auto* grad = problem.grad.has_value() ? static_cast<T*>(problem.grad->mutable_data_ptr()) : nullptr;
  // Rounded to the stored type first: a plain number then gives exactly what a tensor filled with it gives.
  const C target_value = Compute<T>::load(Compute<T>::store(static_cast<C>(problem.target_value)));

  if (problem.reduction == Reduction::none) {
    if (blocks > 0) {
      bce_with_logits_kernel<T, false><<<static_cast<unsigned>(blocks), kBceThreads, 0, device.stream()>>>(
          input, target, target_value, loss, grad, {}, 1.0, n);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    return;
  }
  const Scratch scratch = make_scratch(problem.input, blocks, device.stream());
  const double divisor = problem.reduction == Reduction::mean ? static_cast<double>(n) : 1.0;
  const auto grid = static_cast<unsigned>(blocks > 0 ? blocks : 1);  // no elements have a loss too
  bce_with_logits_kernel<T, true><<<grid, kBceThreads, 0, device.stream()>>>(
      input, target, target_value, loss, grad, scratch.pointers, divisor, n);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
void run_backward(const BceWithLogitsBackward& problem) {
  const DeviceAndStream device(problem.gradient);
  const int64_t n = problem.gradient.numel();
  const auto kernel = problem.one_number ? bce_with_logits_backward_kernel<T, true> : bce_with_logits_backward_kernel<T, false>;
  kernel<<<static_cast<unsigned>(bce_with_logits_blocks<T>(n)), kBceThreads, 0, device.stream()>>>(
      static_cast<const T*>(problem.gradient.const_data_ptr()),
      static_cast<const T*>(problem.grad_output.const_data_ptr()), problem.divisor,
      static_cast<T*>(problem.output.mutable_data_ptr()), n);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
void run(const DiscriminatorLoss& problem) {
  using C = compute_t<T>;
  const DeviceAndStream device(problem.real);
  const int64_t real_count = problem.real.numel();
  const int64_t fake_count = problem.fake.numel();
  const int64_t blocks = bce_with_logits_blocks<T>(std::max({real_count, fake_count, int64_t{1}}));
  const bool need_grad = problem.real_grad.has_value();
  const Scratch scratch = make_scratch(problem.real, blocks, device.stream());
  discriminator_loss_kernel<T><<<static_cast<unsigned>(blocks), kBceThreads, 0, device.stream()>>>(
      static_cast<const T*>(problem.real.const_data_ptr()), static_cast<const T*>(problem.fake.const_data_ptr()),
      Compute<T>::load(Compute<T>::store(static_cast<C>(problem.real_target))),
      static_cast<T*>(problem.loss.mutable_data_ptr()),
      need_grad ? static_cast<T*>(problem.real_grad->mutable_data_ptr()) : nullptr,
      need_grad ? static_cast<T*>(problem.fake_grad->mutable_data_ptr()) : nullptr, scratch.pointers,
      1.0 / static_cast<double>(real_count), 1.0 / static_cast<double>(fake_count), real_count, fake_count);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

template <typename T>
void run_backward(const DiscriminatorLossBackward& problem) {
  const DeviceAndStream device(problem.real_gradient);
  const int64_t real_count = problem.real_gradient.numel();
  const int64_t fake_count = problem.fake_gradient.numel();
  const int64_t blocks = bce_with_logits_blocks<T>(std::max(real_count, fake_count));
  if (blocks == 0) {
    return;
  }
  discriminator_loss_backward_kernel<T><<<static_cast<unsigned>(blocks), kBceThreads, 0, device.stream()>>>(
      static_cast<const T*>(problem.real_gradient.const_data_ptr()),
      static_cast<const T*>(problem.fake_gradient.const_data_ptr()),
      static_cast<const T*>(problem.grad_output.const_data_ptr()),
      static_cast<T*>(problem.real_output.mutable_data_ptr()), static_cast<T*>(problem.fake_output.mutable_data_ptr()),
      real_count, fake_count);
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace

void run_bce_with_logits(const BceWithLogits& problem) {
  with_device_dtype(problem.input, [&](auto* type) { run<std::remove_pointer_t<decltype(type)>>(problem); });
}

void run_bce_with_logits_backward(const BceWithLogitsBackward& problem) {
  with_device_dtype(problem.gradient, [&](auto* type) { run_backward<std::remove_pointer_t<decltype(type)>>(problem); });
}

void run_discriminator_loss(const DiscriminatorLoss& problem) {
  with_device_dtype(problem.real, [&](auto* type) { run<std::remove_pointer_t<decltype(type)>>(problem); });
}

void run_discriminator_loss_backward(const DiscriminatorLossBackward& problem) {
  with_device_dtype(
      problem.real_gradient, [&](auto* type) { run_backward<std::remove_pointer_t<decltype(type)>>(problem); });
}

}  // namespace fastgan
