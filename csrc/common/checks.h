// Argument checks shared by every operator's bind.cpp. Each message begins with the operator and names the argument.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <sstream>
#include <stdexcept>

#include "common/reduction.h"

namespace fastgan {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A RuntimeError in Python. STD_TORCH_CHECK would put the path of the source file, on the machine that built it, before the
// message.
template <typename... Parts>
void check(bool condition, const Parts&... parts) {
  if (!condition) {
    std::ostringstream message;
    (message << ... << parts);
    throw std::runtime_error(message.str());
  }
}

inline void check_floating(const char* op, const char* name, const Tensor& tensor) {
  const ScalarType dtype = tensor.scalar_type();
  const bool supported = dtype == ScalarType::Double || dtype == ScalarType::Float || dtype == ScalarType::Half ||
      dtype == ScalarType::BFloat16;
  check(
      supported, op, ": ", name, " must be float64, float32, float16 or bfloat16, got ",
      torch::headeronly::toString(dtype));
}

inline void check_contiguous(const char* op, const char* name, const Tensor& tensor) {
  check(tensor.is_contiguous(), op, ": ", name, " must be contiguous");
}

inline void check_same_dtype(
    const char* op, const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) {
  check(
      tensor.scalar_type() == other.scalar_type(), op, ": ", name, " must have the dtype of ", other_name, " (",
      torch::headeronly::toString(other.scalar_type()), "), got ", torch::headeronly::toString(tensor.scalar_type()));
}

inline void check_same_device(
    const char* op, const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) {
  check(tensor.device() == other.device(), op, ": ", name, " must be on the device of ", other_name);
}

inline void check_same_shape(
    const char* op, const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) {
  check(tensor.sizes().equals(other.sizes()), op, ": ", name, " must have the shape of ", other_name);
}

inline void check_reduction(const char* op, int64_t reduction) {
  check(
      reduction >= static_cast<int64_t>(Reduction::none) && reduction <= static_cast<int64_t>(Reduction::sum), op,
      ": reduction must be 0 (none), 1 (mean) or 2 (sum), got ", reduction);
}

}  // namespace fastgan
