// The types of tensors, as device code computes with them. No torch header.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

namespace fastgan {

// The type in which a stored type is computed, and the two conversions.
template <typename T>
struct Compute;

template <typename T>
using compute_t = typename Compute<T>::type;

template <>
struct Compute<double> {
  using type = double;
  static __host__ __device__ double load(double value) { return value; }
  static __host__ __device__ double store(double value) { return value; }
};

template <>
struct Compute<float> {
  using type = float;
  static __host__ __device__ float load(float value) { return value; }
  static __host__ __device__ float store(float value) { return value; }
};

template <>
struct Compute<__half> {
  using type = float;
  static __host__ __device__ float load(__half value) { return __half2float(value); }
  static __host__ __device__ __half store(float value) { return __float2half(value); }
};

template <>
struct Compute<__nv_bfloat16> {
  using type = float;
  static __host__ __device__ float load(__nv_bfloat16 value) { return __bfloat162float(value); }
  static __host__ __device__ __nv_bfloat16 store(float value) { return __float2bfloat16(value); }
};

}  // namespace fastgan
