// The activations that kernels fuse. No torch header.
#pragma once

#include <cstdint>

namespace fastgan {

// Mirrors fastgan/ops/common/activation.py; tests/test_native.py compares the two.
enum class Activation : int64_t { none = 0, relu = 1, leaky_relu = 2, tanh = 3 };

}  // namespace fastgan
