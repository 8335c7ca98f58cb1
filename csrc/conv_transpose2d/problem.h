// What cpu_bind.cpp hands to the kernels, in numbers and pointers. No torch header.
//
// Notation (README of the op): a small image [N, groups * cs, h, w] and a big one [N, groups * cb, H, W]; small pixel i and tap
// k meet big pixel o = i * stride - padding + k * dilation; the weight is [groups * cs, cb, kh, kw].
#pragma once

#include <cstdint>

#include "common/activation.h"

namespace fastgan {

enum class Element { float32, float16, bfloat16 };

// A tensor with any strides, in elements.
struct View {
  void* data;
  Element element;
  int64_t n, c, h, w;  // strides; of a weight: of its dimensions in their order
};

struct Axis {
  int64_t small, big, kernel, stride, padding, dilation;
};

struct Shape {
  int64_t batch, groups, cs, cb;  // channels per group
  Axis h, w;

  int64_t taps() const { return h.kernel * w.kernel; }
};

// What happens to a sum before it is stored.
struct Epilogue {
  Activation activation = Activation::none;
  float slope = 0;  // of leaky_relu, where the sum is not above 0
};

// An image map: transposed (big from small) or strided (small from big). bias: [groups * output channels] or null.
struct ImageProblem {
  Shape shape;
  bool transposed;
  View input, weight, output;
  const float* bias;
  Epilogue epilogue = {};
};

// weight[a, b, k] = sum over n, i of small[n, a, i] * big[n, b, i * stride - padding + k * dilation].
struct WeightProblem {
  Shape shape;
  View small, big, weight;
};

}  // namespace fastgan
