// Kernels of batch norm + activation. In a cluster: a group of channels is read once, kept in the shared memory of the blocks,
// and written once. In two passes: sums, which the last block of a group adds up, then what needs them. No torch header.
#pragma once

#include "batch_norm_act/group.cuh"

namespace fastgan::batch_norm_act {

constexpr int kItems = 4, kPairs = 2;  // that a thread asks for at once

// y, mean, rstd and the running statistics, in one launch of clusters of walk.parts blocks.
template <typename T, int kVector, bool kPlanes>
__global__ void __launch_bounds__(kMostThreads, 1) batch_norm_act_cluster_kernel(Operands<T> o, Statistics s) {
  using K = Kernel<T, kVector, kPlanes>;
  using P = typename K::P;
  using C = typename K::C;
  FASTGAN_DYNAMIC_SHARED(P, held);
  FASTGAN_SHARED(Moments, warps, kMostWarps * K::kWidth);
  FASTGAN_SHARED(Moments, block, K::kWidth);
  FASTGAN_SHARED(Moments, cluster, K::kWidth);
  FASTGAN_SHARED(Numbers<C>, numbers, K::kWidth);
  const int64_t group = blockIdx.x / o.walk.parts, part = blockIdx.x % o.walk.parts;
  const typename K::Place cursor(o.walk, group, part);
  const auto kept = [&](int i) -> P& { return held[i * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)]; };

  Welford<C, kVector> seen;
  each_item<kPairs>(
      cursor, [&](int64_t at, int) { return read<kVector>(o.input + at); },
      [&](int64_t, int i, const P& x) {
        kept(i) = x;
        C values[kVector];
        x.numbers(values);
        seen.add(values);
      });
  Moments mine[K::kEach];
  K::moments(seen, mine);
  merge_block<Moments, K::kEach>(mine, o.walk.columns, warps, block);
  merge_cluster(o.walk.width, block, cluster);
  __syncthreads();
  K::finish(o, s, group, cluster, part == 0, numbers);
  __syncthreads();

  const typename K::Lanes lanes(o.walk, numbers);
  const C slope = static_cast<C>(o.slope);
  each_item<kPairs>(
      cursor, [&](int64_t, int i) { return kept(i); },
      [&](int64_t at, int, const P& x) { write(o.output + at, K::forward(x, lanes, o.relu, slope)); });
}

// dx and the gradients of weight and bias, in one launch of clusters of walk.parts blocks.
template <typename T, int kVector, bool kPlanes>
__global__ void __launch_bounds__(kMostThreads, 1)
    batch_norm_act_backward_cluster_kernel(Operands<T> o, Gradients d) {
  using K = Kernel<T, kVector, kPlanes>;
  using C = typename K::C;
  using Pair = typename K::Pair;
  FASTGAN_DYNAMIC_SHARED(Pair, held);
  FASTGAN_SHARED(Sums, warps, kMostWarps * K::kWidth);
  FASTGAN_SHARED(Sums, block, K::kWidth);
  FASTGAN_SHARED(Sums, cluster, K::kWidth);
  FASTGAN_SHARED(Numbers<C>, numbers, K::kWidth);
  const int64_t group = blockIdx.x / o.walk.parts, part = blockIdx.x % o.walk.parts;
  const typename K::Place cursor(o.walk, group, part);
  const auto kept = [&](int i) -> Pair& { return held[i * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)]; };
  const C slope = static_cast<C>(o.slope);

  K::numbers(o, group, numbers);
  __syncthreads();
  {
    const typename K::Lanes lanes(o.walk, numbers);
    C first[kVector] = {}, second[kVector] = {};
    each_item<kPairs>(
        cursor, [&](int64_t at, int) { return Pair{read<kVector>(o.input + at), read<kVector>(o.grad_output + at)}; },
        [&](int64_t, int i, const Pair& pair) {
          kept(i) = pair;
          K::add(pair, lanes, o.relu, slope, first, second);
        });
    Sums mine[K::kEach];
    K::sums(first, second, mine);
    merge_block<Sums, K::kEach>(mine, o.walk.columns, warps, block);
  }
  merge_cluster(o.walk.width, block, cluster);
  __syncthreads();
  K::finish(o, d, group, cluster, part == 0, numbers);
  __syncthreads();

  const typename K::Lanes lanes(o.walk, numbers);
  each_item<kPairs>(
      cursor, [&](int64_t, int i) { return kept(i); },
      [&](int64_t at, int, const Pair& pair) {
        write(o.output + at, K::backward(pair, lanes, o.training, o.relu, slope));
      });
}

// Mean, rstd (or the variance), low and the running statistics.
template <typename T, int kVector, bool kPlanes>
__global__ void __launch_bounds__(kMostThreads, 1)
    batch_norm_act_moments_kernel(Operands<T> o, Statistics s, Scratch scratch) {
  using K = Kernel<T, kVector, kPlanes>;
  using C = typename K::C;
  FASTGAN_SHARED(Moments, warps, kMostWarps * K::kWidth);
  FASTGAN_SHARED(Moments, block, K::kWidth);
  FASTGAN_SHARED(Moments, all, K::kWidth);
  FASTGAN_SHARED(Numbers<C>, numbers, K::kWidth);
  const int64_t group = blockIdx.x % o.walk.groups, part = blockIdx.x / o.walk.groups;
  Welford<C, kVector> seen;
  each_item<kItems>(
      typename K::Place(o.walk, group, part), [&](int64_t at, int) { return read<kVector>(o.input + at); },
      [&](int64_t, int, const typename K::P& x) {
        C values[kVector];
        x.numbers(values);
        seen.add(values);
      });
  Moments mine[K::kEach];
  K::moments(seen, mine);
  merge_block<Moments, K::kEach>(mine, o.walk.columns, warps, block);
  if (merge_blocks(o.walk, group, part, block, scratch, all)) {
    K::finish(o, s, group, all, true, numbers);
  }
}

// y by given statistics.
template <typename T, int kVector, bool kPlanes>
__global__ void __launch_bounds__(kMostThreads, 1) batch_norm_act_apply_kernel(Operands<T> o) {
  using K = Kernel<T, kVector, kPlanes>;
  FASTGAN_SHARED(Numbers<typename K::C>, numbers, K::kWidth);
  const int64_t group = blockIdx.x % o.walk.groups, part = blockIdx.x / o.walk.groups;
  K::numbers(o, group, numbers);
  __syncthreads();
  const typename K::Lanes lanes(o.walk, numbers);
  const auto slope = static_cast<typename K::C>(o.slope);
  each_item<kItems>(
      typename K::Place(o.walk, group, part), [&](int64_t at, int) { return read<kVector>(o.input + at); },
      [&](int64_t at, int, const typename K::P& x) { write(o.output + at, K::forward(x, lanes, o.relu, slope)); });
}

// The gradients of weight and bias, and per_centred and per_element; where the statistics are given ones grad_input needs no
// more, and is written if there is an output.
template <typename T, int kVector, bool kPlanes>
__global__ void __launch_bounds__(kMostThreads, 1) batch_norm_act_sums_kernel(Operands<T> o, Gradients d, Scratch scratch) {
  using K = Kernel<T, kVector, kPlanes>;
  using C = typename K::C;
  using Pair = typename K::Pair;
  FASTGAN_SHARED(Sums, warps, kMostWarps * K::kWidth);
  FASTGAN_SHARED(Sums, block, K::kWidth);
  FASTGAN_SHARED(Sums, all, K::kWidth);
  FASTGAN_SHARED(Numbers<C>, numbers, K::kWidth);
  const int64_t group = blockIdx.x % o.walk.groups, part = blockIdx.x / o.walk.groups;
  const C slope = static_cast<C>(o.slope);
  K::numbers(o, group, numbers);
  __syncthreads();
  const typename K::Lanes lanes(o.walk, numbers);
  C first[kVector] = {}, second[kVector] = {};
  each_item<kPairs>(
      typename K::Place(o.walk, group, part),
      [&](int64_t at, int) { return Pair{read<kVector>(o.input + at), read<kVector>(o.grad_output + at)}; },
      [&](int64_t at, int, const Pair& pair) {
        K::add(pair, lanes, o.relu, slope, first, second);
        if (o.output != nullptr) {
          write(o.output + at, K::backward(pair, lanes, false, o.relu, slope));
        }
      });
  Sums mine[K::kEach];
  K::sums(first, second, mine);
  merge_block<Sums, K::kEach>(mine, o.walk.columns, warps, block);
  if (merge_blocks(o.walk, group, part, block, scratch, all)) {
    K::finish(o, d, group, all, true, numbers);
  }
}

// dx by given per_centred and per_element.
template <typename T, int kVector, bool kPlanes>
__global__ void __launch_bounds__(kMostThreads, 1) batch_norm_act_gradient_kernel(Operands<T> o) {
  using K = Kernel<T, kVector, kPlanes>;
  using Pair = typename K::Pair;
  FASTGAN_SHARED(Numbers<typename K::C>, numbers, K::kWidth);
  const int64_t group = blockIdx.x % o.walk.groups, part = blockIdx.x / o.walk.groups;
  K::numbers(o, group, numbers);
  __syncthreads();
  const typename K::Lanes lanes(o.walk, numbers);
  const auto slope = static_cast<typename K::C>(o.slope);
  each_item<kPairs>(
      typename K::Place(o.walk, group, part),
      [&](int64_t at, int) { return Pair{read<kVector>(o.input + at), read<kVector>(o.grad_output + at)}; },
      [&](int64_t at, int, const Pair& pair) {
        write(o.output + at, K::backward(pair, lanes, true, o.relu, slope));
      });
}

}  // namespace fastgan::batch_norm_act
