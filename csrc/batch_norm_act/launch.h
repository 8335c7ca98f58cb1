// What bind.cpp hands to the device's own code: cpu.cpp in one module, kernel.cu in the other.
// Tensors of the input's shape have its dtype and its layout in memory, which is
// [N, C, rest] or [N, rest, C] without gaps; vectors are [C], of any floating dtype and stride.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

#include "common/activation.h"

namespace fastgan::batch_norm_act {

using torch::stable::Tensor;

// Memory as [outer, channels, inner].
struct View {
  int64_t outer;
  int64_t channels;
  int64_t inner;
};

// nullopt: neither of the two layouts.
inline std::optional<View> view_of(const Tensor& input) {
  const int64_t dims = input.dim();
  int64_t inner = 1;
  for (int64_t dim = 2; dim < dims; ++dim) {
    inner *= input.size(dim);
  }
  if (input.is_contiguous()) {
    return View{input.size(0), input.size(1), inner};
  }
  int64_t expected = 1;
  for (int64_t i = 0; i < dims; ++i) {  // channels, then the others from the last to the first
    const int64_t dim = i == 0 ? 1 : (i == dims - 1 ? 0 : dims - i);
    if (input.size(dim) != 1 && input.stride(dim) != expected) {
      return std::nullopt;
    }
    expected *= input.size(dim);
  }
  return View{input.size(0) * inner, input.size(1), 1};
}

struct Act {
  Activation activation;
  double slope;
};

struct Affine {
  const std::optional<Tensor>& weight;
  const std::optional<Tensor>& bias;
  const Tensor& mean;
  const Tensor& rstd;
};

struct Running {
  const std::optional<Tensor>& mean;
  const std::optional<Tensor>& var;
  double momentum;
};

// Fills output, affine.mean and affine.rstd, and updates the running statistics.
void train(
    const Tensor& input, const Affine& affine, const Running& running, double eps, Act act, const Tensor& output);

void evaluate(const Tensor& input, const Affine& affine, Act act, const Tensor& output);

void backward(
    const Tensor& grad_output,
    const Tensor& input,
    const Affine& affine,
    bool training,
    Act act,
    const Tensor& grad_input,
    const Tensor& grad_weight,
    const Tensor& grad_bias);

// mean and var are float64.
void stats(const Tensor& input, const Tensor& mean, const Tensor& var);

// grad_weight and grad_bias are float64.
void backward_reduce(
    const Tensor& grad_output,
    const Tensor& input,
    const Affine& affine,
    Act act,
    const Tensor& grad_weight,
    const Tensor& grad_bias);

void backward_apply(
    const Tensor& grad_output,
    const Tensor& input,
    const Affine& affine,
    const Tensor& per_centred,
    const Tensor& per_element,
    Act act,
    const Tensor& grad_input);

}  // namespace fastgan::batch_norm_act
