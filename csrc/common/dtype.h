// The C++ type of a tensor's dtype.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <stdexcept>

namespace fastgan {

// function(a null pointer to the dtype's C++ type). The 16-bit ones: what the caller's device computes with.
template <typename F16 = torch::headeronly::Half, typename BF16 = torch::headeronly::BFloat16, typename Function>
auto with_dtype(const torch::stable::Tensor& tensor, const Function& function) {
  using torch::headeronly::ScalarType;
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return function(static_cast<double*>(nullptr));
    case ScalarType::Float:
      return function(static_cast<float*>(nullptr));
    case ScalarType::Half:
      return function(static_cast<F16*>(nullptr));
    case ScalarType::BFloat16:
      return function(static_cast<BF16*>(nullptr));
    default:
      throw std::logic_error("with_dtype: bind.cpp let an unsupported dtype through");
  }
}

}  // namespace fastgan
