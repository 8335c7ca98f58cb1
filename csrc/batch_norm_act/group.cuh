// What kernels are given, and what threads do with a group of channels. Device code only: no torch header.
#pragma once

#include "batch_norm_act/walk.cuh"
#include "common/activation.h"
#include "common/partials.cuh"

namespace fastgan::batch_norm_act {

// What all kernels take. Vectors are of the channels.
template <typename T>
struct Operands {
  Walk walk;
  const T* input;
  const T* grad_output;  // backward only
  T* output;             // output or grad_input; null in kernels that only add up
  Vector weight, bias, mean, rstd;
  Vector low;  // what rounding took from mean, forward in training only
  Vector per_centred, per_element;  // what is taken from each element of grad_input: per_centred * (x - mean) and per_element
  bool training;  // grad_input by the batch's statistics, otherwise by given ones
  bool relu;      // otherwise LeakyReLU, with slope 1 where there is no activation
  double slope;
};

// What training's forward leaves behind: Operands' mean, rstd and low, of which rstd may be the variance instead.
struct Statistics {
  Vector running_mean, running_var;
  double momentum, eps;
  bool variance;
};

// What backward leaves behind; the last two become Operands' in the pass that follows, if there is one.
struct Gradients {
  Vector weight, bias, per_centred, per_element;
};

// What blocks bring to the last of them: [groups, parts, width], and a ticket a group, 0 at first.
struct Scratch {
  void* parts;
  unsigned* tickets;
};

// True in the one block of a group, its last or only one, that finds the group's parts merged in `all`.
template <typename Part>
__device__ __forceinline__ bool merge_blocks(
    const Walk& walk, int64_t group, int64_t part, const Part* block, const Scratch& scratch, Part* all) {
  if (walk.parts == 1) {
    for (int i = static_cast<int>(threadIdx.x); i < walk.width; i += static_cast<int>(blockDim.x)) {
      all[i] = block[i];
    }
    __syncthreads();
    return true;
  }
  Part* const brought = static_cast<Part*>(scratch.parts) + group * walk.parts * walk.width;
  return fastgan::merge_blocks(walk.width, block, part, walk.parts, brought, scratch.tickets + group, all);
}

// The numbers of the channels of a group, in shared memory.
template <typename C>
struct Numbers {
  C mean, rstd, scale;
  C bias;  // with what rounding took from mean
  C per_centred, per_element;
};

template <typename T, int kVector, bool kPlanes>
struct Kernel {
  using C = compute_t<T>;
  using P = Pack<T, kVector>;
  static constexpr int kEach = kPlanes ? 1 : kVector;                       // channels of a thread
  static constexpr int kWidth = kPlanes ? 1 : kVector * kMostColumns;       // and of a group, at most
  using Place = Cursor<kVector, kPlanes>;

  struct Pair {
    P x, dy;
  };

  // The numbers of the lanes of a thread.
  struct Lanes {
    Numbers<C> of[kEach];

    __device__ __forceinline__ Lanes(const Walk& walk, const Numbers<C>* group) {
#pragma unroll
      for (int i = 0; i < kEach; ++i) {
        of[i] = group[static_cast<int>(threadIdx.x) % walk.columns * kEach + i];
      }
    }

    __device__ __forceinline__ const Numbers<C>& lane(int i) const { return of[kPlanes ? 0 : i]; }
  };

  __device__ __forceinline__ static int64_t channel_of(const Walk& walk, int64_t group, int i) {
    return group * walk.width + i;
  }

  __device__ __forceinline__ static bool is_channel(const Walk& walk, int64_t group, int i) {
    return channel_of(walk, group, i) < walk.channels;
  }

  // By given statistics.
  __device__ __forceinline__ static void numbers(const Operands<T>& o, int64_t group, Numbers<C>* to) {
    for (int i = static_cast<int>(threadIdx.x); i < o.walk.width; i += static_cast<int>(blockDim.x)) {
      if (is_channel(o.walk, group, i)) {
        const int64_t channel = channel_of(o.walk, group, i);
        to[i].mean = static_cast<C>(o.mean.get(channel));
        to[i].per_centred = o.per_centred ? static_cast<C>(o.per_centred.get(channel)) : C(0);
        to[i].per_element = o.per_element ? static_cast<C>(o.per_element.get(channel)) : C(0);
        scale(o, channel, static_cast<C>(o.rstd.get(channel)), o.low ? o.low.get(channel) : 0.0, to[i]);
      } else {
        to[i] = {};
      }
    }
  }

  __device__ __forceinline__ static void scale(const Operands<T>& o, int64_t channel, C rstd, double low, Numbers<C>& to) {
    to.rstd = rstd;
    to.scale = o.weight ? rstd * static_cast<C>(o.weight.get(channel)) : rstd;
    to.bias = static_cast<C>((o.bias ? o.bias.get(channel) : 0.0) - low * static_cast<double>(to.scale));
  }

  __device__ __forceinline__ static C value(const Numbers<C>& n, C x) { return (x - n.mean) * n.scale + n.bias; }

  __device__ __forceinline__ static P forward(const P& x, const Lanes& lanes, bool relu, C slope) {
    P y;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const C z = value(lanes.lane(i), Compute<T>::load(x.values[i]));
      y.values[i] = Compute<T>::store(relu ? activated<true>(z, slope) : activated<false>(z, slope));
    }
    return y;
  }

  // The gradient before the activation.
  __device__ __forceinline__ static C before(const Pair& pair, int i, const Numbers<C>& n, bool relu, C slope) {
    const C z = value(n, Compute<T>::load(pair.x.values[i])), dy = Compute<T>::load(pair.dy.values[i]);
    return relu ? gated<true>(dy, z, slope) : gated<false>(dy, z, slope);
  }

  __device__ __forceinline__ static P backward(const Pair& pair, const Lanes& lanes, bool training, bool relu, C slope) {
    P dx;
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const Numbers<C>& n = lanes.lane(i);
      const C g = before(pair, i, n, relu, slope), centred = Compute<T>::load(pair.x.values[i]) - n.mean;
      const C rest = training ? (g - n.per_element) - centred * n.per_centred : g;
      dx.values[i] = Compute<T>::store(rest * n.scale);
    }
    return dx;
  }

  // Moments of what a thread has seen, by channel.
  __device__ __forceinline__ static void moments(const Welford<C, kVector>& seen, Moments (&to)[kEach]) {
    if constexpr (kPlanes) {
      to[0] = seen.lane(0);
#pragma unroll
      for (int i = 1; i < kVector; ++i) {
        to[0] = merged(to[0], seen.lane(i));
      }
    } else {
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        to[i] = seen.lane(i);
      }
    }
  }

  // To the sums of g and of g * (x - mean).
  __device__ __forceinline__ static void add(
      const Pair& pair, const Lanes& lanes, bool relu, C slope, C (&first)[kVector], C (&second)[kVector]) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const Numbers<C>& n = lanes.lane(i);
      const C g = before(pair, i, n, relu, slope);
      first[i] += g;
      second[i] += g * (Compute<T>::load(pair.x.values[i]) - n.mean);
    }
  }

  __device__ __forceinline__ static void sums(const C (&first)[kVector], const C (&second)[kVector], Sums (&to)[kEach]) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      to[i] = {0, 0};
    }
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      Sums& sum = to[kPlanes ? 0 : i];
      sum = merged(sum, Sums{static_cast<double>(first[i]), static_cast<double>(second[i])});
    }
  }

  // Mean and rstd of the merged moments; one block of a group writes them, and updates the running statistics.
  __device__ __forceinline__ static void finish(
      const Operands<T>& o, const Statistics& s, int64_t group, const Moments* all, bool writes, Numbers<C>* to) {
    for (int i = static_cast<int>(threadIdx.x); i < o.walk.width; i += static_cast<int>(blockDim.x)) {
      if (!is_channel(o.walk, group, i)) {
        to[i] = {};
        continue;
      }
      const int64_t channel = channel_of(o.walk, group, i);
      const Moments m = all[i];
      const double var = (m.m2 < 0 ? 0 : m.m2) / m.count, rstd = s.variance ? var : 1.0 / sqrt(var + s.eps);
      to[i].mean = static_cast<C>(m.mean);
      const double low = m.mean - static_cast<double>(to[i].mean);
      scale(o, channel, static_cast<C>(rstd), low, to[i]);
      if (!writes) {
        continue;
      }
      o.mean.set(channel, m.mean);
      o.rstd.set(channel, rstd);
      if (o.low) {
        o.low.set(channel, low);
      }
      if (s.running_mean) {
        const double keep = 1.0 - s.momentum, unbiased = (m.m2 < 0 ? 0 : m.m2) / (m.count - 1.0);
        s.running_mean.set(channel, keep * s.running_mean.get(channel) + s.momentum * m.mean);
        s.running_var.set(channel, keep * s.running_var.get(channel) + s.momentum * unbiased);
      }
    }
  }

  // The same of backward's sums.
  __device__ __forceinline__ static void finish(
      const Operands<T>& o, const Gradients& d, int64_t group, const Sums* all, bool writes, Numbers<C>* to) {
    const double count = static_cast<double>(o.walk.items) * (kPlanes ? kVector : 1);
    for (int i = static_cast<int>(threadIdx.x); i < o.walk.width; i += static_cast<int>(blockDim.x)) {
      if (!is_channel(o.walk, group, i)) {
        continue;
      }
      const int64_t channel = channel_of(o.walk, group, i);
      const double rstd = static_cast<double>(to[i].rstd), of_weight = all[i].second * rstd;
      const double per_centred = of_weight * rstd / count;
      const double per_element = all[i].first / count;
      to[i].per_centred = static_cast<C>(per_centred);
      to[i].per_element = static_cast<C>(per_element);
      if (writes) {
        d.weight.set(channel, of_weight);
        d.bias.set(channel, all[i].first);
        if (d.per_centred) {
          d.per_centred.set(channel, per_centred);
          d.per_element.set(channel, per_element);
        }
      }
    }
  }
};

}  // namespace fastgan::batch_norm_act
