// The activations that kernels fuse, and their arithmetic. No torch header.
#pragma once

#include <cstdint>

#include "common/host_device.h"

namespace fastgan {

// Mirrors fastgan/ops/common/activation.py; tests/test_native.py compares the two.
enum class Activation : int64_t { none = 0, relu = 1, leaky_relu = 2, tanh = 3 };

// ReLU, or LeakyReLU by its slope, of which no activation is the one with slope 1. NaN stays. The vectors of a CPU have these
// two again (batch_norm_act/steps.inc): a compiler takes vectors apart in a function that is not of their instruction set.
template <bool kRelu, typename C>
FASTGAN_HOST_DEVICE C activated(C z, C slope) {
  if constexpr (kRelu) {
    return z <= 0 ? C(0) : z;
  } else {
    return z > 0 ? z : z * slope;
  }
}

// The gradient before the activation, whose argument was z. At NaN ReLU passes it and LeakyReLU scales it, as torch does.
template <bool kRelu, typename C>
FASTGAN_HOST_DEVICE C gated(C grad, C z, C slope) {
  if constexpr (kRelu) {
    return z <= 0 ? C(0) : grad;
  } else {
    return z > 0 ? grad : grad * slope;
  }
}

}  // namespace fastgan
