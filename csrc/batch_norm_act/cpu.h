// What cpu_bind.cpp hands to cpu.cpp. Tensors of the input's shape have its dtype and its layout in memory, which is
// [N, C, rest] or [N, rest, C] without gaps; vectors are [C], of any floating dtype and stride.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

#include "batch_norm_act/block.h"

namespace fastgan::batch_norm_act {

using torch::stable::Tensor;

// Memory as [outer, channels, inner].
struct View {
  int64_t outer;
  int64_t channels;
  int64_t inner;
};

// nullopt: neither of the two layouts.
std::optional<View> view_of(const Tensor& input);

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
