// What bind.cpp hands to the device's own code: cpu.cpp and cpu_backward.cpp in one module, kernel.cu in the other.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "common/reduction.h"

namespace fastgan {

struct BceWithLogits {
  torch::stable::Tensor input;
  std::optional<torch::stable::Tensor> target;  // nullopt: every target is target_value
  double target_value;
  Reduction reduction;
  torch::stable::Tensor loss;                // shape of input for Reduction::none, otherwise 0-d
  std::optional<torch::stable::Tensor> grad;  // nullopt: not wanted
};

// Fills loss and grad. The tensors are contiguous and agree in dtype, shape and device.
void run_bce_with_logits(const BceWithLogits& problem);

struct BceWithLogitsBackward {
  torch::stable::Tensor gradient;
  torch::stable::Tensor grad_output;  // contiguous and of gradient's shape, or one number
  bool one_number;
  double divisor;  // the number of elements for a mean, otherwise 1
  torch::stable::Tensor output;  // possibly gradient itself
};

// Fills output. There is at least one element; gradient and output are contiguous, and all agree in dtype and device.
void run_bce_with_logits_backward(const BceWithLogitsBackward& problem);

struct DiscriminatorLoss {
  torch::stable::Tensor real;
  torch::stable::Tensor fake;
  double real_target;
  torch::stable::Tensor loss;  // 0-d
  std::optional<torch::stable::Tensor> real_grad;  // both or neither: nullopt, not wanted
  std::optional<torch::stable::Tensor> fake_grad;
};

// Fills loss and both gradients, unscaled. The tensors are contiguous and agree in dtype and device; a gradient has its logits'
// shape.
void run_discriminator_loss(const DiscriminatorLoss& problem);

struct DiscriminatorLossBackward {
  torch::stable::Tensor real_gradient;
  torch::stable::Tensor fake_gradient;
  torch::stable::Tensor grad_output;  // one number
  torch::stable::Tensor real_output;  // possibly the gradients themselves
  torch::stable::Tensor fake_output;
};

// Fills both outputs: the gradient times grad_output, over its number of elements. Contiguous, of one dtype and device.
void run_discriminator_loss_backward(const DiscriminatorLossBackward& problem);

}  // namespace fastgan
