// What the kernels of kernels.inc work on: a block of rows of a tensor whose memory is [rows, channels, inner].
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/activation.h"

namespace fastgan {

constexpr int64_t kMostLanes = 16;  // floats in the widest vector of vector.inc

// The arithmetic of a tensor of T.
template <typename T>
using compute_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Numbers per column, or per channel where `planes`.
enum Parameter : int64_t {
  kMean,
  kScale,  // rstd * weight
  kBias,   // with what rounding took from the mean
  kPerCentred,
  kPerElement,  // grad_input = ((g - per_element) - ((x - mean) * per_centred + low)) * scale
  kPerElementLow,
  kParameters
};

// Rows of `columns` neighbouring elements, `stride` apart. All parameters and sums can be read and written up to
// the next multiple of kMostLanes.
template <typename T>
struct Block {
  using C = compute_t<T>;

  const T* input;        // [rows, columns]
  const T* grad_output;  // [rows, columns], backward only
  T* output;             // [rows, columns], output or grad_input
  int64_t rows;
  int64_t stride;
  int64_t columns;  // where `planes`: channels * inner
  int64_t channels;
  int64_t inner;  // column j belongs to channel (j / inner) % channels
  bool planes;    // one parameter per channel; inner >= kMostLanes
  bool exact;     // the sum that decides the mean is taken without rounding
  const C* parameters[kParameters];
  bool relu;  // otherwise LeakyReLU, with slope 1 where there is no activation
  C slope;
  C* sums[2];         // scratch of kernels that reduce: [columns] each, where `planes` [channels, lanes]
  double* wide_sum;   // scratch of the same size, for a first sum in double
  double* totals[2];  // what they find: [channels] each
};

}  // namespace fastgan
