// fastgan_native::conv_transpose2d, conv2d and conv2d_weight on the CPU: checks, allocation, registration.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "common/checks.h"
#include "common/schema.h"
#include "conv_transpose2d/method.h"

namespace fastgan {
namespace {

#define FASTGAN_GEOMETRY "int[] stride, int[] padding, int[] dilation, int groups"
const Schema image_schema(
    "conv_image(Tensor input, Tensor weight, Tensor? bias, Tensor(a!) output, bool transposed, " FASTGAN_GEOMETRY
    ", int activation=0, float negative_slope=0.0) -> ()");
const Schema weight_schema("conv_weight(Tensor small, Tensor big, Tensor(a!) weight, " FASTGAN_GEOMETRY ") -> ()");

using Ints = std::vector<int64_t>;

// Reading a view of an operand must not count as writing it, so only the output asks for a pointer to write to.
View view(const char* op, const char* name, const Tensor& tensor, bool written = false) {
  check(tensor.dim() == 4, op, ": ", name, " must have 4 dimensions, got ", tensor.dim());
  const ScalarType dtype = tensor.scalar_type();
  check(
      dtype == ScalarType::Float || dtype == ScalarType::Half || dtype == ScalarType::BFloat16, op, ": ", name,
      " must be float32, float16 or bfloat16, got ", torch::headeronly::toString(dtype));
  const Element element = dtype == ScalarType::Float ? Element::float32
      : dtype == ScalarType::Half                    ? Element::float16
                                                     : Element::bfloat16;
  void* data = written ? tensor.mutable_data_ptr() : const_cast<void*>(tensor.const_data_ptr());
  return {data, element, tensor.stride(0), tensor.stride(1), tensor.stride(2), tensor.stride(3)};
}

Shape shape(
    const char* op, const Tensor& small, const Tensor& big, const Tensor& weight, const Ints& stride, const Ints& padding,
    const Ints& dilation, int64_t groups) {
  check(stride.size() == 2 && padding.size() == 2 && dilation.size() == 2, op, ": stride, padding and dilation must be pairs");
  check(
      groups > 0 && small.size(1) % groups == 0 && big.size(1) % groups == 0, op, ": groups = ", groups,
      " must divide the channels, ", small.size(1), " and ", big.size(1));
  check(
      small.size(0) == big.size(0) && weight.size(0) == small.size(1) && weight.size(1) == big.size(1) / groups, op,
      ": the shapes of images and weight do not fit together");
  const auto axis = [&](int d) {
    check(stride[d] > 0 && dilation[d] > 0, op, ": stride and dilation must be positive");
    return Axis{small.size(2 + d), big.size(2 + d), weight.size(2 + d), stride[d], padding[d], dilation[d]};
  };
  return {small.size(0), groups, small.size(1) / groups, big.size(1) / groups, axis(0), axis(1)};
}

void conv_image(
    const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& output, bool transposed,
    Ints stride, Ints padding, Ints dilation, int64_t groups, int64_t activation, double negative_slope) {
  constexpr const char* op = "conv_image";
  check(
      activation >= 0 && activation <= static_cast<int64_t>(Activation::tanh), op,
      ": activation must be 0 (none), 1 (relu), 2 (leaky_relu) or 3 (tanh), got ", activation);
  check_same_dtype(op, "weight", weight, "input", input);
  check_same_dtype(op, "output", output, "input", input);
  const View from = view(op, "input", input), taps = view(op, "weight", weight), to = view(op, "output", output, true);
  ImageProblem problem = {
      shape(op, transposed ? input : output, transposed ? output : input, weight, stride, padding, dilation, groups),
      transposed, from, taps, to, nullptr,
      {static_cast<Activation>(activation), static_cast<float>(negative_slope)}};
  if (bias.has_value()) {
    check(
        bias->scalar_type() == ScalarType::Float && bias->dim() == 1 && bias->size(0) == output.size(1) &&
            bias->is_contiguous(),
        op, ": bias must be a contiguous float32 vector with one value per output channel");
    problem.bias = static_cast<const float*>(bias->const_data_ptr());
  }
  if (output.numel() > 0) {
    run(problem);
  }
}

void conv_weight(
    const Tensor& small, const Tensor& big, const Tensor& weight, Ints stride, Ints padding, Ints dilation, int64_t groups) {
  constexpr const char* op = "conv_weight";
  check_same_dtype(op, "big", big, "small", small);
  check_same_dtype(op, "weight", weight, "small", small);
  const View from = view(op, "small", small), other = view(op, "big", big), to = view(op, "weight", weight, true);
  const WeightProblem problem = {
      shape(op, small, big, weight, stride, padding, dilation, groups), from, other, to};
  if (weight.numel() == 0) {
    return;
  }
  if (small.numel() == 0 || big.numel() == 0) {
    torch::stable::zero_(const_cast<Tensor&>(weight));
    return;
  }
  run(problem);
}

}  // namespace
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan_native, CPU, m) {
  m.impl("conv_image", TORCH_BOX(&fastgan::conv_image));
  m.impl("conv_weight", TORCH_BOX(&fastgan::conv_weight));
}
