// Device code of bce_with_logits, discriminator_loss and their backwards. Forward is one pass over the logits; with a
// reduction, the block that ends last adds the blocks' sums in the same launch. Which block that is, is chance, but the order
// of every addition depends on the numbers of elements and their type alone. No torch header.
#pragma once

#include <cstdint>

#include "bce_with_logits/formula.h"
#include "common/block_reduce.cuh"
#include "common/memory.cuh"
#include "common/shared.cuh"

namespace fastgan {

constexpr int kBceThreads = 256;
constexpr int64_t kBceMaxBlocks = 1024;  // a constant, not the device's size: equal bits on every device

// Neighbouring elements that a thread takes together, 16 bytes: the widest load.
template <typename T>
using BcePack = Pack<T, 16 / static_cast<int>(sizeof(T))>;

template <typename T>
inline int64_t bce_with_logits_blocks(int64_t n) {
  constexpr int64_t kElementsPerBlock = int64_t{BcePack<T>::kSize} * kBceThreads;
  const int64_t blocks = (n + kElementsPerBlock - 1) / kElementsPerBlock;
  return blocks < kBceMaxBlocks ? blocks : kBceMaxBlocks;
}

// A null pointer is: what is not there is not read.
__device__ __forceinline__ bool bce_is_aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// Both ways move the same elements, so that a thread's elements, and the order of its additions, do not depend on an address.
template <typename T>
__device__ __forceinline__ BcePack<T> bce_load(const T* from, bool wide) {
  if (wide) {
    return read<BcePack<T>::kSize>(from);
  }
  BcePack<T> pack;
#pragma unroll
  for (int k = 0; k < BcePack<T>::kSize; ++k) {
    pack.values[k] = read(from + k);
  }
  return pack;
}

template <typename T>
__device__ __forceinline__ void bce_store(T* to, const BcePack<T>& pack, bool wide) {
  if (wide) {
    return write(to, pack);
  }
#pragma unroll
  for (int k = 0; k < BcePack<T>::kSize; ++k) {
    write(to + k, pack.values[k]);
  }
}

// Every thread's share of n elements: calls pack(i), where i is a pack's first element, and element(i) for what is left over,
// fewer than a pack.
template <typename T, typename Packs, typename Elements>
__device__ __forceinline__ void bce_share(int64_t n, const Packs& pack, const Elements& element) {
  constexpr int64_t kCount = BcePack<T>::kSize;
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * kBceThreads + threadIdx.x;
  const int64_t threads = static_cast<int64_t>(gridDim.x) * kBceThreads;
  const int64_t packs = n / kCount;
  for (int64_t i = thread; i < packs; i += threads) {
    pack(i * kCount);
  }
  for (int64_t i = packs * kCount + thread; i < n; i += threads) {
    element(i);
  }
}

struct DeviceMath {
  static __host__ __device__ float exp_negative(float a) { return expf(-a); }
  static __host__ __device__ float log1p_unit(float e) { return log1pf(e); }
  static __host__ __device__ double exp_negative(double a) { return exp(-a); }
  static __host__ __device__ double log1p_unit(double e) { return log1p(e); }
};

// Where the sums of several blocks meet. One block needs none.
struct BceScratch {
  double* block_sums;  // [blocks]
  unsigned* ticket;    // how many blocks have ended; 0 at first
};

// Every thread of every block calls it with the sum of its losses. divisor is 1 for a sum and the number of elements for a
// mean: of no elements, 0 / 0, which is NaN.
template <typename T>
__device__ __forceinline__ void bce_reduce(double sum, BceScratch scratch, double divisor, T* loss) {
  double total = block_sum<kBceThreads>(sum);
  if (gridDim.x > 1) {
    FASTGAN_SHARED(bool, is_last, 1);
    if (threadIdx.x == 0) {
      scratch.block_sums[blockIdx.x] = total;
      __threadfence();  // whoever sees the ticket drawn sees the sum
      is_last[0] = atomicAdd(scratch.ticket, 1u) == gridDim.x - 1;
      __threadfence();  // and whoever draws the last one sees the sums of all
    }
    __syncthreads();  // all know whether theirs is the last block, and the first sum is read before a second uses its memory
    if (!is_last[0]) {
      return;
    }
    sum = 0;
    for (unsigned block = threadIdx.x; block < gridDim.x; block += kBceThreads) {
      sum += static_cast<const volatile double*>(scratch.block_sums)[block];  // volatile: from where the others wrote it
    }
    total = block_sum<kBceThreads>(sum);
  }
  if (threadIdx.x == 0) {
    *loss = Compute<T>::store(static_cast<compute_t<T>>(total / divisor));
  }
}

// A thread's share of forward; returns the sum of its losses if kReduced, which leaves `loss` alone. target may be null (every
// target is target_value) and grad may be null (not wanted).
template <bool kReduced, typename T>
__device__ __forceinline__ compute_t<T> bce_forward(
    const T* __restrict__ input,
    const T* __restrict__ target,
    compute_t<T> target_value,
    T* __restrict__ loss,
    T* __restrict__ grad,
    int64_t n) {
  using C = compute_t<T>;
  const bool wide =
      bce_is_aligned(input) && bce_is_aligned(target) && (kReduced || bce_is_aligned(loss)) && bce_is_aligned(grad);
  C sum = C(0);
  const auto one = [&](T x, C t, T& loss_out, T& grad_out) {
    C element_loss;
    C element_grad;
    bce_with_logits_element<DeviceMath>(Compute<T>::load(x), t, element_loss, element_grad);
    grad_out = Compute<T>::store(element_grad);
    if constexpr (kReduced) {
      sum += element_loss;
    } else {
      loss_out = Compute<T>::store(element_loss);
    }
  };
  const auto pack = [&](int64_t i) {
    const BcePack<T> x = bce_load(input + i, wide);
    const BcePack<T> t = target != nullptr ? bce_load(target + i, wide) : BcePack<T>{};
    BcePack<T> losses;
    BcePack<T> grads;
#pragma unroll
    for (int k = 0; k < BcePack<T>::kSize; ++k) {
      one(x.values[k], target != nullptr ? Compute<T>::load(t.values[k]) : target_value, losses.values[k], grads.values[k]);
    }
    if (grad != nullptr) {
      bce_store(grad + i, grads, wide);
    }
    if constexpr (!kReduced) {
      bce_store(loss + i, losses, wide);
    }
  };
  const auto element = [&](int64_t i) {
    T losses;
    T grads;
    one(input[i], target != nullptr ? Compute<T>::load(target[i]) : target_value, losses, grads);
    if (grad != nullptr) {
      grad[i] = grads;
    }
    if constexpr (!kReduced) {
      loss[i] = losses;
    }
  };
  bce_share<T>(n, pack, element);
  return sum;
}

// As bce_forward. Reduced, loss is one number.
template <typename T, bool kReduced>
__global__ void __launch_bounds__(kBceThreads, 1) bce_with_logits_kernel(
    const T* __restrict__ input,
    const T* __restrict__ target,
    compute_t<T> target_value,
    T* __restrict__ loss,
    T* __restrict__ grad,
    BceScratch scratch,
    double divisor,
    int64_t n) {
  const compute_t<T> sum = bce_forward<kReduced>(input, target, target_value, loss, grad, n);
  if constexpr (kReduced) {
    bce_reduce(static_cast<double>(sum), scratch, divisor, loss);
  }
}

// loss = the mean over real against real_target + the mean over fake against 0. Both gradients, unscaled, or neither: null. As
// many blocks as the longer of the two needs, and each takes its share of both. per_real and per_fake are 1 over their numbers
// of elements: infinite where there are none, and the mean NaN.
template <typename T>
__global__ void __launch_bounds__(kBceThreads, 1) discriminator_loss_kernel(
    const T* __restrict__ real,
    const T* __restrict__ fake,
    compute_t<T> real_target,
    T* __restrict__ loss,
    T* __restrict__ real_grad,
    T* __restrict__ fake_grad,
    BceScratch scratch,
    double per_real,
    double per_fake,
    int64_t real_count,
    int64_t fake_count) {
  using C = compute_t<T>;
  const T* const no_target = nullptr;
  T* const no_losses = nullptr;
  const C real_sum = bce_forward<true>(real, no_target, real_target, no_losses, real_grad, real_count);
  const C fake_sum = bce_forward<true>(fake, no_target, C(0), no_losses, fake_grad, fake_count);
  bce_reduce(static_cast<double>(real_sum) * per_real + static_cast<double>(fake_sum) * per_fake, scratch, 1.0, loss);
}

// A thread's share of output = gradient * (grad_output / divisor); output may be gradient. grad_output is one number, which is
// read here so that nothing waits for the device, or has an element for each. The arithmetic is cpu_backward.cpp's.
template <bool kOneNumber, typename T>
__device__ __forceinline__ void bce_backward(
    const T* gradient, const T* __restrict__ grad_output, double divisor, T* output, int64_t n) {
  using C = compute_t<T>;
  const bool wide =
      bce_is_aligned(gradient) && (kOneNumber || bce_is_aligned(grad_output)) && bce_is_aligned(output);
  // Not rounded to T: 1 / n may be subnormal in float16.
  const C factor = kOneNumber ? static_cast<C>(static_cast<double>(Compute<T>::load(*grad_output)) / divisor) : C(1);
  if (kOneNumber && factor == C(1) && gradient == output) {
    return;
  }
  const auto one = [&](T value, T seed) {
    const C scale = kOneNumber ? factor : Compute<T>::load(seed) / static_cast<C>(divisor);
    return Compute<T>::store(Compute<T>::load(value) * scale);
  };
  const auto pack = [&](int64_t i) {
    BcePack<T> values = bce_load(gradient + i, wide);
    const BcePack<T> seeds = kOneNumber ? BcePack<T>{} : bce_load(grad_output + i, wide);
#pragma unroll
    for (int k = 0; k < BcePack<T>::kSize; ++k) {
      values.values[k] = one(values.values[k], seeds.values[k]);
    }
    bce_store(output + i, values, wide);
  };
  bce_share<T>(n, pack, [&](int64_t i) { output[i] = one(gradient[i], grad_output[kOneNumber ? 0 : i]); });
}

template <typename T, bool kOneNumber>
__global__ void __launch_bounds__(kBceThreads, 1) bce_with_logits_backward_kernel(
    const T* gradient, const T* __restrict__ grad_output, double divisor, T* output, int64_t n) {
  bce_backward<kOneNumber>(gradient, grad_output, divisor, output, n);
}

// Both gradients times the one incoming number, each over its number of elements. In place where the outputs are the gradients.
template <typename T>
__global__ void __launch_bounds__(kBceThreads, 1) discriminator_loss_backward_kernel(
    const T* real_gradient,
    const T* fake_gradient,
    const T* __restrict__ grad_output,
    T* real_output,
    T* fake_output,
    int64_t real_count,
    int64_t fake_count) {
  bce_backward<true>(real_gradient, grad_output, static_cast<double>(real_count), real_output, real_count);
  bce_backward<true>(fake_gradient, grad_output, static_cast<double>(fake_count), fake_output, fake_count);
}

}  // namespace fastgan
