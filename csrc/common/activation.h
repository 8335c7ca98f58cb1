// The activations that kernels fuse, and their arithmetic on every device. No torch header.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace fastgan {

// Mirrors fastgan/ops/common/activation.py; tests/test_native.py compares the two.
enum class Activation : int64_t { none = 0, relu = 1, leaky_relu = 2, tanh = 3 };

// ReLU, or LeakyReLU by its slope, of which no activation is the one with slope 1. NaN stays. V is a number, or a vector of
// them.
template <bool kRelu, typename V>
FASTGAN_HOST_DEVICE V activated(V z, V slope) {
  if constexpr (kRelu) {
    return z <= 0 ? V{} : z;
  } else {
    return z > 0 ? z : z * slope;
  }
}

// The gradient before the activation, whose argument was z. At NaN ReLU passes it and LeakyReLU scales it, as torch does.
template <bool kRelu, typename V>
FASTGAN_HOST_DEVICE V gated(V grad, V z, V slope) {
  if constexpr (kRelu) {
    return z <= 0 ? V{} : grad;
  } else {
    return z > 0 ? grad : grad * slope;
  }
}

}  // namespace fastgan
