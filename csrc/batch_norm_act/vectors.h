// Vectors of one number per channel, of any floating dtype and stride, as doubles.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <vector>

namespace fastgan::batch_norm_act {

using Doubles = std::vector<double>;

// function(a null pointer to the dtype's C++ type)
template <typename Function>
auto with_dtype(const torch::stable::Tensor& tensor, const Function& function) {
  using torch::headeronly::ScalarType;
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return function(static_cast<double*>(nullptr));
    case ScalarType::Float:
      return function(static_cast<float*>(nullptr));
    case ScalarType::Half:
      return function(static_cast<torch::headeronly::Half*>(nullptr));
    case ScalarType::BFloat16:
      return function(static_cast<torch::headeronly::BFloat16*>(nullptr));
    default:
      throw std::logic_error("batch_norm_act: bind.cpp let an unsupported dtype through");
  }
}

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
