// What bind.cpp hands to the device's own code: cpu.cpp in one module, kernel.cu in the other.
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

}  // namespace fastgan
