// Sum over a thread block in a fixed order. Device code only: no torch header.
#pragma once

#include "common/shared.cuh"

namespace fastgan {

// Every thread of a block of kThreads calls it; thread 0 gets the sum. The order of the additions depends on nothing but
// kThreads, so equal inputs give equal bits.
template <int kThreads, typename C>
__device__ __forceinline__ C block_sum(C value) {
  constexpr int kWarp = 32;
  static_assert(kThreads % kWarp == 0 && kThreads <= kWarp * kWarp, "whole warps, and no more than one warp of them");
  constexpr unsigned kAllLanes = 0xffffffffu;
  FASTGAN_SHARED(C, warp_sums, kThreads / kWarp);

  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    value += __shfl_down_sync(kAllLanes, value, offset);
  }
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (lane == 0) {
    warp_sums[warp] = value;
  }
  __syncthreads();
  if (warp == 0) {
    value = lane < kThreads / kWarp ? warp_sums[lane] : C(0);
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      value += __shfl_down_sync(kAllLanes, value, offset);
    }
  }
  return value;
}

}  // namespace fastgan
