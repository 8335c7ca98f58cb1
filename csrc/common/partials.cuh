// Reductions whose parts are structs with merged() (moments.h): over a block, over a cluster, and over the blocks of a grid.
// The order of the merges depends on the numbers of threads and blocks alone, so equal inputs give equal bits. Device code
// only: no torch header.
#pragma once

#include "common/cluster.cuh"
#include "common/memory.cuh"
#include "common/moments.h"

namespace fastgan {

constexpr int kWarp = 32, kMostWarps = 16;

__device__ __forceinline__ Moments of_lane_beside(const Moments& part, int lanes) {
  constexpr unsigned kAllLanes = 0xffffffffu;
  return {__shfl_xor_sync(kAllLanes, part.count, lanes), __shfl_xor_sync(kAllLanes, part.mean, lanes),
          __shfl_xor_sync(kAllLanes, part.m2, lanes)};
}

__device__ __forceinline__ Sums of_lane_beside(const Sums& part, int lanes) {
  constexpr unsigned kAllLanes = 0xffffffffu;
  return {__shfl_xor_sync(kAllLanes, part.first, lanes), __shfl_xor_sync(kAllLanes, part.second, lanes)};
}

// Thread t has parts of the channels [t % columns * kEach, ... + kEach) in `mine`; `columns` is a power of two, at most a warp.
// All threads of the block call it, with `warps` for [warps of the block, columns * kEach] parts in shared memory, and find
// the block's in `block`, [columns * kEach] in shared memory.
template <typename Part, int kEach>
__device__ __forceinline__ void merge_block(Part (&mine)[kEach], int columns, Part* warps, Part* block) {
#pragma unroll
  for (int i = 0; i < kEach; ++i) {  // one channel after the other: few of these doubles are needed at a time
#pragma unroll 1
    for (int lanes = kWarp / 2; lanes >= columns; lanes /= 2) {
      mine[i] = merged(mine[i], of_lane_beside(mine[i], lanes));
    }
  }
  const int thread = static_cast<int>(threadIdx.x), width = columns * kEach;
  if (thread % kWarp < columns) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      warps[thread / kWarp * width + thread % kWarp * kEach + i] = mine[i];
    }
  }
  __syncthreads();
  for (int channel = thread; channel < width; channel += static_cast<int>(blockDim.x)) {
    Part all = warps[channel];
    for (int warp = 1; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) {
      all = merged(all, warps[warp * width + channel]);
    }
    block[channel] = all;
  }
  __syncthreads();
}

// The blocks' parts of each of `width` channels become the cluster's, in every block.
template <typename Part>
__device__ __forceinline__ void merge_cluster(int width, const Part* block, Part* cluster) {
  cluster_barrier();
  for (int channel = static_cast<int>(threadIdx.x); channel < width; channel += static_cast<int>(blockDim.x)) {
    Part all = of_rank(block, 0)[channel];
    for (unsigned rank = 1; rank < cluster_size(); ++rank) {
      all = merged(all, of_rank(block, rank)[channel]);
    }
    cluster[channel] = all;
  }
  cluster_barrier();  // nobody ends, or writes there again, while another block reads
}

// Of `blocks` blocks each brings its parts of `width` channels; the last one to come gets the merged parts in `all` and true.
// `brought` is [blocks, width] in global memory, and `ticket` is 0.
template <typename Part>
__device__ __forceinline__ bool merge_blocks(
    int width, const Part* block, int64_t number, int64_t blocks, Part* brought, unsigned* ticket, Part* all) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  FASTGAN_SHARED(unsigned, came_before, 1);
  for (int channel = thread; channel < width; channel += threads) {
    note_written(sizeof(Part));
    brought[number * width + channel] = block[channel];
  }
  __threadfence();  // what was brought is seen by whoever sees the ticket
  __syncthreads();
  if (thread == 0) {
    *came_before = atomicAdd(ticket, 1u);
  }
  __syncthreads();
  if (*came_before + 1 != static_cast<unsigned>(blocks)) {
    return false;
  }
  __threadfence();
  for (int channel = thread; channel < width; channel += threads) {
    note_read(static_cast<size_t>(blocks) * sizeof(Part));
    Part sum = brought[channel];
    for (int64_t i = 1; i < blocks; ++i) {
      sum = merged(sum, brought[i * width + channel]);
    }
    all[channel] = sum;
  }
  __syncthreads();
  return true;
}

}  // namespace fastgan
