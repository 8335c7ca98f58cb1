// Launches of bce_with_logits and its backward on the current stream.
#include <torch/csrc/stable/ops.h>

#include <array>
#include <optional>
#include <stdexcept>

#include "bce_with_logits/kernel.cuh"
#include "bce_with_logits/launch.h"
#include "common/cuda_launch.h"

namespace fastgan {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Of several blocks, in memory of torch's allocator, which the stream's order keeps from others until the kernel has ended; the
// tensor that holds it comes with it. The ticket is after the sums.
struct Scratch {
  Tensor memory;
  BceScratch pointers;
};

Scratch make_scratch(const Tensor& like, int64_t blocks, cudaStream_t stream) {
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
  std::optional<Scratch> scratch;
  if (blocks > 1) {
    scratch = make_scratch(problem.input, blocks, device.stream());
  }
  const double divisor = problem.reduction == Reduction::mean ? static_cast<double>(n) : 1.0;
  const auto grid = static_cast<unsigned>(blocks > 0 ? blocks : 1);  // no elements have a loss too
  bce_with_logits_kernel<T, true><<<grid, kBceThreads, 0, device.stream()>>>(
      input, target, target_value, loss, grad, scratch.has_value() ? scratch->pointers : BceScratch{}, divisor, n);
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

}  // namespace

void run_bce_with_logits(const BceWithLogits& problem) {
  switch (problem.input.scalar_type()) {
    case ScalarType::Double:
      return run<double>(problem);
    case ScalarType::Float:
      return run<float>(problem);
    case ScalarType::Half:
      return run<__half>(problem);
    case ScalarType::BFloat16:
      return run<__nv_bfloat16>(problem);
    default:
      throw std::logic_error("bce_with_logits: bind.cpp let an unsupported dtype through");
  }
}

void run_bce_with_logits_backward(const BceWithLogitsBackward& problem) {
  switch (problem.gradient.scalar_type()) {
    case ScalarType::Double:
      return run_backward<double>(problem);
    case ScalarType::Float:
      return run_backward<float>(problem);
    case ScalarType::Half:
      return run_backward<__half>(problem);
    case ScalarType::BFloat16:
      return run_backward<__nv_bfloat16>(problem);
    default:
      throw std::logic_error("bce_with_logits_backward: bind.cpp let an unsupported dtype through");
  }
}

}  // namespace fastgan
