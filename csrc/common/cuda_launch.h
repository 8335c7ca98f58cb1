// What every launch needs from torch's stable ABI.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include "common/dtype.h"

namespace fastgan {

// function(a null pointer to the dtype's type, as device code has it)
template <typename Function>
void with_device_dtype(const torch::stable::Tensor& tensor, const Function& function) {
  with_dtype<__half, __nv_bfloat16>(tensor, function);
}

// Makes the tensor's device current for the life of the object and gives that device's current stream.
class DeviceAndStream {
 public:
  explicit DeviceAndStream(const torch::stable::Tensor& tensor) : guard_(tensor.get_device_index()) {
    void* stream = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  cudaStream_t stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_ = nullptr;
};

}  // namespace fastgan
