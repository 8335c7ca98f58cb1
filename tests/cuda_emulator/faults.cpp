// Kernels with an error each, and the same without: what the emulator must find, and what it must not.
#include <map>

#include "common/block_reduce.cuh"
#include "common/shared.cuh"
#include "jobs.h"

namespace cuda_emulator {
namespace {

constexpr unsigned kThreads = 64, kClusterBlocks = 4;
constexpr unsigned kAllLanes = 0xffffffffu;

// A block's values in reverse order, through shared memory.
template <bool kBarrier, int kBeyondShared, int kBeyondGlobal, bool kUnwritten>
void reverse(const float* input, float* output) {
  FASTGAN_SHARED(float, values, kThreads);
  const unsigned i = threadIdx.x, at = blockIdx.x * kThreads + i;
  if (!kUnwritten || i != 5) {
    values[i] = input[at + kBeyondGlobal];
  }
  if constexpr (kBarrier) {
    __syncthreads();
  }
  output[at] = values[kThreads - 1 - i + kBeyondShared];
}

// Twice through the same array: the second time it is written before all have read.
template <bool kBarrier>
void twice(const float* input, float* output) {
  FASTGAN_SHARED(float, values, kThreads);
  const unsigned i = threadIdx.x, at = blockIdx.x * kThreads + i;
  float value = input[at];
  for (int pass = 0; pass < 2; ++pass) {
    values[i] = value;
    __syncthreads();
    value = values[(i + 1) % kThreads] + 1.0f;
    if constexpr (kBarrier) {
      __syncthreads();
    }
  }
  output[at] = value;
}

void barrier_for_some(const float* input, float* output) {
  if (threadIdx.x < 40) {
    __syncthreads();
  }
  output[blockIdx.x * kThreads + threadIdx.x] = input[0];
}

void barrier_after_an_end(const float* input, float* output) {
  if (threadIdx.x == 7) {
    return;
  }
  __syncthreads();
  output[blockIdx.x * kThreads + threadIdx.x] = input[0];
}

// The sum of a warp's values in all of its lanes.
template <unsigned kMask, unsigned kCallers>
void warp_sum(const float* input, float* output) {
  const unsigned at = blockIdx.x * kThreads + threadIdx.x;
  float value = input[at];
  if (kCallers >> (threadIdx.x % kWarp) & 1u) {
    for (int offset = 16; offset > 0; offset /= 2) {
      value += __shfl_xor_sync(kMask, value, offset);
    }
  }
  output[at] = value;
}

void halves_of_a_warp(const float* input, float* output) {
  const unsigned at = blockIdx.x * kThreads + threadIdx.x, half = threadIdx.x % kWarp / 16;
  const unsigned mask = half == 0 ? 0x0000ffffu : 0xffff0000u;
  float value = input[at];
  if (half == 0) {
    value += __shfl_xor_sync(mask, value, 1);
  }
  value = __shfl_xor_sync(mask, value, 2);
  output[at] = __ballot_sync(mask, value > 0.0f) == mask ? value : -1.0f;
}

void sum_by_atomics(const float* input, float* output) {
  const unsigned at = blockIdx.x * kThreads + threadIdx.x;
  if (at == 0) {
    output[0] = 0.0f;
  }
  __syncthreads();
  atomicAdd(output, input[threadIdx.x]);
}

void block_sums(const float* input, float* output) {
  const float total = fastgan::block_sum<kThreads>(input[blockIdx.x * kThreads + threadIdx.x]);
  if (threadIdx.x == 0) {
    output[blockIdx.x] = total;
  }
}

// Each block takes the values of the next one of its cluster, from that one's shared memory.
template <bool kBefore, bool kAfter>
void neighbours(const float* input, float* output) {
  FASTGAN_SHARED(float, values, kThreads);
  Machine& machine = Machine::now();
  const unsigned i = threadIdx.x, at = blockIdx.x * kThreads + i;
  values[i] = input[at];
  if constexpr (kBefore) {
    machine.cluster_barrier();
  }
  const unsigned next = (machine.block().rank + 1) % kClusterBlocks;
  output[at] = static_cast<const float*>(machine.of_rank(values, next))[i];
  if constexpr (kAfter) {
    machine.cluster_barrier();
  }
}

using Kernel = void (*)(const float*, float*);
const std::map<std::string, Kernel> kKernels = {
    {"reverse", reverse<true, 0, 0, false>},
    {"reverse_without_barrier", reverse<false, 0, 0, false>},
    {"reverse_beyond_shared", reverse<true, 1, 0, false>},
    {"reverse_beyond_global", reverse<true, 0, 1, false>},
    {"reverse_of_an_unwritten_value", reverse<true, 0, 0, true>},
    {"twice", twice<true>},
    {"twice_without_second_barrier", twice<false>},
    {"barrier_for_some", barrier_for_some},
    {"barrier_after_an_end", barrier_after_an_end},
    {"warp_sum", warp_sum<kAllLanes, kAllLanes>},
    {"warp_sum_without_own_lane", warp_sum<0x7fffffffu, kAllLanes>},
    {"warp_sum_of_absent_lanes", warp_sum<kAllLanes, 0x55555555u>},
    {"warp_sum_of_half_a_mask", warp_sum<0x0000ffffu, 0x0000ffffu>},
    {"halves_of_a_warp", halves_of_a_warp},
    {"sum_by_atomics", sum_by_atomics},
    {"block_sums", block_sums},
    {"neighbours", neighbours<true, true>},
    {"neighbours_without_first_barrier", neighbours<false, true>},
    {"neighbours_without_last_barrier", neighbours<true, false>},
};

}  // namespace

void fault(Job& job) {
  const Kernel kernel = kKernels.at(job.word<std::string>());
  Launch launch;
  launch.seed = job.word<uint64_t>();
  launch.grid.x = job.word<unsigned>();
  launch.cluster = job.word<unsigned>();
  launch.block.x = kThreads;
  const size_t count = size_t{launch.grid.x} * kThreads;
  Array<float> input = job.array<float>(count), output(count);
  run(launch, kernel, input.get(), output.get());
  job.answer(output);
}

}  // namespace cuda_emulator
