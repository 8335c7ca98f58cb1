// fastgan_native::bce_with_logits_backward and its in-place form: the saved derivative times the incoming gradient, over the
// number of elements for a mean. CPU only.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <stdexcept>
#include <type_traits>

#include "common/checks.h"
#include "common/reduction.h"
#include "common/schema.h"

namespace fastgan {
namespace {

constexpr const char* kOp = "bce_with_logits_backward";
constexpr int64_t kGrain = 32768;  // elements worth a thread

const Schema schema("bce_with_logits_backward(Tensor gradient, Tensor grad_output, int reduction) -> Tensor");
const Schema in_place_schema(
    "bce_with_logits_backward_(Tensor(a!) gradient, Tensor grad_output, int reduction) -> ()");

// Whether every element of the tensor is the same number in memory: 0-d, or expanded from that, as a sum's gradient is.
bool is_one_number(const Tensor& tensor) {
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.stride(d) != 0 && tensor.size(d) != 1) {
      return false;
    }
  }
  return true;
}

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
void run(const Tensor& gradient, const Tensor& grad_output, double divisor, const Tensor& output) {
  scale(
      static_cast<const T*>(gradient.const_data_ptr()), static_cast<const T*>(grad_output.const_data_ptr()),
      is_one_number(grad_output), divisor, static_cast<T*>(output.mutable_data_ptr()), gradient.numel());
}

void run(const Tensor& gradient, const Tensor& grad_output, int64_t reduction, const Tensor& output) {
  check_floating(kOp, "gradient", gradient);
  check_contiguous(kOp, "gradient", gradient);
  check_same_dtype(kOp, "grad_output", grad_output, "gradient", gradient);
  check_same_device(kOp, "grad_output", grad_output, "gradient", gradient);
  check_reduction(kOp, reduction);
  if (grad_output.dim() != 0) {
    check_same_shape(kOp, "grad_output", grad_output, "gradient", gradient);
    check(
        is_one_number(grad_output) || grad_output.is_contiguous(), kOp,
        ": grad_output must be contiguous, or one number expanded");
  }
  if (gradient.numel() == 0) {
    return;
  }
  const double divisor =
      static_cast<Reduction>(reduction) == Reduction::mean ? static_cast<double>(gradient.numel()) : 1.0;
  switch (gradient.scalar_type()) {
    case ScalarType::Double:
      return run<double>(gradient, grad_output, divisor, output);
    case ScalarType::Float:
      return run<float>(gradient, grad_output, divisor, output);
    case ScalarType::Half:
      return run<torch::headeronly::Half>(gradient, grad_output, divisor, output);
    case ScalarType::BFloat16:
      return run<torch::headeronly::BFloat16>(gradient, grad_output, divisor, output);
    default:
      throw std::logic_error("bce_with_logits_backward: check_floating let an unsupported dtype through");
  }
}

Tensor bce_with_logits_backward(const Tensor& gradient, const Tensor& grad_output, int64_t reduction) {
  const Tensor output = torch::stable::empty_like(gradient);
  run(gradient, grad_output, reduction, output);
  return output;
}

void bce_with_logits_backward_(const Tensor& gradient, const Tensor& grad_output, int64_t reduction) {
  run(gradient, grad_output, reduction, gradient);
}

}  // namespace
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan_native, CPU, m) {
  m.impl("bce_with_logits_backward", TORCH_BOX(&fastgan::bce_with_logits_backward));
  m.impl("bce_with_logits_backward_", TORCH_BOX(&fastgan::bce_with_logits_backward_));
}
