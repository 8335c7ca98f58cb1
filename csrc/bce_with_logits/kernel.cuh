// Device code of bce_with_logits: one pass over the logits, and a second, tiny kernel that adds the blocks' sums. No atomics:
// the order of every addition depends on the number of elements alone. No torch header.
#pragma once

#include <cstdint>

#include "bce_with_logits/formula.h"
#include "common/block_reduce.cuh"
#include "common/compute.cuh"

namespace fastgan {

constexpr int kBceThreads = 256;
constexpr int64_t kBceMaxBlocks = 1024;  // a constant, not the device's size: equal bits on every device

inline int64_t bce_with_logits_blocks(int64_t n) {
  constexpr int64_t kElementsPerBlock = 4 * kBceThreads;
  const int64_t blocks = (n + kElementsPerBlock - 1) / kElementsPerBlock;
  return blocks < kBceMaxBlocks ? blocks : kBceMaxBlocks;
}

struct DeviceMath {
  static __host__ __device__ float exp_negative(float a) { return expf(-a); }
  static __host__ __device__ float log1p_unit(float e) { return log1pf(e); }
  static __host__ __device__ double exp_negative(double a) { return exp(-a); }
  static __host__ __device__ double log1p_unit(double e) { return log1p(e); }
};

// target may be null (every target is target_value), loss may be null (reduced: block_sums gets one value per block) and grad
// may be null (not wanted).
template <typename T, bool kReduced>
__global__ void __launch_bounds__(kBceThreads) bce_with_logits_elementwise_kernel(
    const T* __restrict__ input,
    const T* __restrict__ target,
    compute_t<T> target_value,
    T* __restrict__ loss,
    T* __restrict__ grad,
    compute_t<T>* __restrict__ block_sums,
    int64_t n) {
  using C = compute_t<T>;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kBceThreads;
  C sum = C(0);
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kBceThreads + threadIdx.x; i < n; i += stride) {
    const C t = target != nullptr ? Compute<T>::load(target[i]) : target_value;
    C element_loss;
    C element_grad;
    bce_with_logits_element<DeviceMath>(Compute<T>::load(input[i]), t, element_loss, element_grad);
    if (grad != nullptr) {
      grad[i] = Compute<T>::store(element_grad);
    }
    if constexpr (kReduced) {
      sum += element_loss;
    } else {
      loss[i] = Compute<T>::store(element_loss);
    }
  }
  if constexpr (kReduced) {
    const C total = block_sum<kBceThreads>(sum);
    if (threadIdx.x == 0) {
      block_sums[blockIdx.x] = total;
    }
  }
}

// One block. divisor is 1 for a sum and the number of elements for a mean: of no elements, 0 / 0, which is NaN.
template <typename T>
__global__ void __launch_bounds__(kBceThreads) bce_with_logits_finish_kernel(
    const compute_t<T>* __restrict__ block_sums, int64_t blocks, compute_t<T> divisor, T* __restrict__ loss) {
  using C = compute_t<T>;
  C sum = C(0);
  for (int64_t i = threadIdx.x; i < blocks; i += kBceThreads) {
    sum += block_sums[i];
  }
  const C total = block_sum<kBceThreads>(sum);
  if (threadIdx.x == 0) {
    *loss = Compute<T>::store(total / divisor);
  }
}

}  // namespace fastgan
