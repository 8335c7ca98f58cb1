// How the threads of a block walk over their part of a channel group. Device code only: no torch header.
#pragma once

#include "batch_norm_act/gpu_plan.h"
#include "common/memory.cuh"

namespace fastgan::batch_norm_act {

// A thread's items one after the other: where each begins in memory, in elements.
template <int kVector, bool kPlanes>
class Cursor {
 public:
  __device__ __forceinline__ Cursor(const Walk& walk, int64_t group, int64_t part) {
    const int column = static_cast<int>(threadIdx.x) % walk.columns;
    step_ = static_cast<int>(blockDim.x) / walk.columns;
    const int64_t end = part * walk.per_part + walk.per_part;
    const int64_t item = part * walk.per_part + static_cast<int>(threadIdx.x) / walk.columns;
    left_ = (end < walk.items ? end : walk.items) - item;
    if constexpr (kPlanes) {
      channels_ = walk.channels;
      inner_ = walk.inner;
      per_plane_ = walk.per_plane;
      planes_of_step_ = step_ / per_plane_;
      rest_of_step_ = step_ % per_plane_;
      place_ = item % per_plane_;
      at_ = (item / per_plane_ * channels_ + group) * inner_ + place_ * kVector;
    } else {
      const int64_t channel = group * walk.width + column * kVector;
      left_ = channel < walk.channels ? left_ : 0;
      at_ = item * walk.channels + channel;
      inner_ = step_ * walk.channels;
    }
  }

  __device__ __forceinline__ bool more() const { return left_ > 0; }

  __device__ __forceinline__ int64_t at() const { return at_; }

  __device__ __forceinline__ void advance() {
    left_ -= step_;
    if constexpr (kPlanes) {
      place_ += rest_of_step_;
      at_ += planes_of_step_ * channels_ * inner_ + rest_of_step_ * kVector;
      if (place_ >= per_plane_) {
        place_ -= per_plane_;
        at_ += (channels_ - 1) * inner_;
      }
    } else {
      at_ += inner_;
    }
  }

 private:
  int64_t left_, at_, inner_;
  int64_t channels_ = 0, per_plane_ = 0, planes_of_step_ = 0, rest_of_step_ = 0, place_ = 0;
  int step_;
};

// use(at, i, get(at, i)) for a thread's items, `at` their places and i = 0, 1, 2, ...; what is got of the next kAtOnce items is
// asked for before the first is used.
template <int kAtOnce, typename Cursor, typename Get, typename Use>
__device__ __forceinline__ void each_item(Cursor cursor, const Get& get, const Use& use) {
  int i = 0;
  while (cursor.more()) {
    decltype(get(int64_t{0}, 0)) items[kAtOnce];
    int64_t places[kAtOnce];
    int count = 0;
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (cursor.more()) {
        places[k] = cursor.at();
        items[k] = get(places[k], i + k);
        cursor.advance();
        ++count;
      }
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (k < count) {
        use(places[k], i + k, items[k]);
      }
    }
    i += count;
  }
}

}  // namespace fastgan::batch_norm_act
