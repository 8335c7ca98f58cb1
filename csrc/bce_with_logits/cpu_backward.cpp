// The loop of bce_with_logits_backward on a CPU: the saved derivative times the incoming gradient, over the number of elements
// for a mean.
#include <torch/csrc/stable/ops.h>

#include <type_traits>

#include "bce_with_logits/launch.h"
#include "common/dtype.h"

namespace fastgan {
namespace {

constexpr int64_t kGrain = 32768;  // elements worth a thread

// gradient, output: [n], possibly the same; grad_output: one number, or [n].
template <typename T>
void scale(const T* gradient, const T* grad_output, bool one_number, double divisor, T* output, int64_t n) {
  using C = std::conditional_t<std::is_same_v<T, double>, double, float>;
  if (!one_number) {
    torch::stable::parallel_for(0, n, kGrain, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        output[i] = static_cast<T>(static_cast<C>(gradient[i]) * (static_cast<C>(grad_output[i]) / C(divisor)));
      }
    });
    return;
  }
  // Not rounded to T: 1 / n may be subnormal in float16.
  const C factor = static_cast<C>(static_cast<double>(*grad_output) / divisor);
  if (factor == C(1) && gradient == output) {
    return;
  }
  torch::stable::parallel_for(0, n, kGrain, [&](int64_t first, int64_t last) {
#pragma GCC ivdep  // in place the compiler would see an overlap and take one element at a time
    for (int64_t i = first; i < last; ++i) {
      output[i] = static_cast<T>(static_cast<C>(gradient[i]) * factor);
    }
  });
}

template <typename T>
void run(const BceWithLogitsBackward& problem) {
  scale(
      static_cast<const T*>(problem.gradient.const_data_ptr()), static_cast<const T*>(problem.grad_output.const_data_ptr()),
      problem.one_number, problem.divisor, static_cast<T*>(problem.output.mutable_data_ptr()), problem.gradient.numel());
}

template <typename T>
void run(const DiscriminatorLossBackward& problem) {
  const auto half = [&](const torch::stable::Tensor& gradient, const torch::stable::Tensor& output) {
    run<T>(BceWithLogitsBackward{gradient, problem.grad_output, true, static_cast<double>(gradient.numel()), output});
  };
  half(problem.real_gradient, problem.real_output);
  half(problem.fake_gradient, problem.fake_output);
}

}  // namespace

void run_bce_with_logits_backward(const BceWithLogitsBackward& problem) {
  with_dtype(problem.gradient, [&](auto* type) { run<std::remove_pointer_t<decltype(type)>>(problem); });
}

void run_discriminator_loss_backward(const DiscriminatorLossBackward& problem) {
  with_dtype(problem.real_gradient, [&](auto* type) { run<std::remove_pointer_t<decltype(type)>>(problem); });
}

}  // namespace fastgan
