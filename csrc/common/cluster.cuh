// A cluster's blocks, which reach each other's shared memory. Below sm_90, and where a launch names no cluster, a block is a
// cluster of its own. Device code only: no torch header.
#pragma once

#ifndef FASTGAN_CUDA_EMULATOR
#include <cooperative_groups.h>
#endif

#include "common/shared.cuh"

namespace fastgan {

#ifdef FASTGAN_CUDA_EMULATOR

inline unsigned cluster_rank() { return ::cuda_emulator::Machine::now().block().rank; }

inline unsigned cluster_size() { return ::cuda_emulator::Machine::now().launch().cluster; }

inline void cluster_barrier() { ::cuda_emulator::Machine::now().cluster_barrier(); }

template <typename T>
const T* of_rank(const T* shared, unsigned rank) {
  return static_cast<const T*>(::cuda_emulator::Machine::now().of_rank(shared, rank));
}

#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900

__device__ __forceinline__ unsigned cluster_rank() { return cooperative_groups::this_cluster().block_rank(); }

__device__ __forceinline__ unsigned cluster_size() { return cooperative_groups::this_cluster().num_blocks(); }

__device__ __forceinline__ void cluster_barrier() { cooperative_groups::this_cluster().sync(); }

// That block's copy of what `shared` points to in the shared memory of this one. Between barriers: a block must have begun,
// and must not have ended.
template <typename T>
__device__ __forceinline__ const T* of_rank(const T* shared, unsigned rank) {
  return cooperative_groups::this_cluster().map_shared_rank(shared, rank);
}

#else

__device__ __forceinline__ unsigned cluster_rank() { return 0; }

__device__ __forceinline__ unsigned cluster_size() { return 1; }

__device__ __forceinline__ void cluster_barrier() { __syncthreads(); }

template <typename T>
__device__ __forceinline__ const T* of_rank(const T* shared, unsigned) {
  return shared;
}

#endif

}  // namespace fastgan
