// Vectors of one number per channel, of any floating dtype and stride, as doubles.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <type_traits>
#include <vector>

#include "common/dtype.h"

namespace fastgan::batch_norm_act {

using Doubles = std::vector<double>;

inline Doubles read_vector(const torch::stable::Tensor& tensor) {
  Doubles values(static_cast<size_t>(tensor.numel()));
  with_dtype(tensor, [&](auto* type) {
    const auto* from = static_cast<const std::remove_pointer_t<decltype(type)>*>(tensor.const_data_ptr());
    const int64_t stride = tensor.stride(0);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<double>(from[static_cast<int64_t>(i) * stride]);
    }
  });
  return values;
}

inline Doubles read_vector(const std::optional<torch::stable::Tensor>& tensor, int64_t channels, double otherwise) {
  return tensor.has_value() ? read_vector(*tensor) : Doubles(static_cast<size_t>(channels), otherwise);
}

inline void write_vector(const torch::stable::Tensor& tensor, const Doubles& values) {
  with_dtype(tensor, [&](auto* type) {
    auto* to = static_cast<decltype(type)>(tensor.mutable_data_ptr());
    const int64_t stride = tensor.stride(0);
    for (size_t i = 0; i < values.size(); ++i) {
      to[static_cast<int64_t>(i) * stride] = static_cast<std::remove_pointer_t<decltype(type)>>(values[i]);
    }
  });
}

}  // namespace fastgan::batch_norm_act
