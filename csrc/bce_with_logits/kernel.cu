// Launches of bce_with_logits on the current stream.
#include <torch/csrc/stable/ops.h>

#include <array>
#include <stdexcept>

#include "bce_with_logits/kernel.cuh"
#include "bce_with_logits/launch.h"
#include "common/cuda_launch.h"

namespace fastgan {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <typename T>
void run(const BceWithLogits& problem) {
  using C = compute_t<T>;
  const DeviceAndStream device(problem.input);
  const int64_t n = problem.input.numel();
  const int64_t blocks = bce_with_logits_blocks(n);
  const auto* input = static_cast<const T*>(problem.input.const_data_ptr());
  const auto* target = problem.target.has_value() ? static_cast<const T*>(problem.target->const_data_ptr()) : nullptr;
  auto* loss = static_cast<T*>(problem.loss.mutable_data_ptr());
  auto* grad = problem.grad.has_value() ? static_cast<T*>(problem.grad->mutable_data_ptr()) : nullptr;
  // Rounded to the stored type first: a plain number then gives exactly what a tensor filled with it gives.
  const C target_value = Compute<T>::load(Compute<T>::store(static_cast<C>(problem.target_value)));

  if (problem.reduction == Reduction::none) {
    if (blocks > 0) {
      bce_with_logits_elementwise_kernel<T, false><<<static_cast<unsigned>(blocks), kBceThreads, 0, device.stream()>>>(
          input, target, target_value, loss, grad, nullptr, n);
      STD_CUDA_KERNEL_LAUNCH_CHECK();
    }
    return;
  }

  constexpr ScalarType compute_dtype = sizeof(C) == sizeof(double) ? ScalarType::Double : ScalarType::Float;
  const std::array<int64_t, 1> shape = {blocks};
  const Tensor block_sums = torch::stable::new_empty(problem.input, shape, compute_dtype);
  auto* sums = static_cast<C*>(block_sums.mutable_data_ptr());
  if (blocks > 0) {
    bce_with_logits_elementwise_kernel<T, true><<<static_cast<unsigned>(blocks), kBceThreads, 0, device.stream()>>>(
        input, target, target_value, nullptr, grad, sums, n);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }
  const C divisor = problem.reduction == Reduction::mean ? static_cast<C>(n) : C(1);
  bce_with_logits_finish_kernel<T><<<1, kBceThreads, 0, device.stream()>>>(sums, blocks, divisor, loss);
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

}  // namespace fastgan
