// Global memory, several elements at a time. Device code only: no torch header.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/compute.cuh"

namespace fastgan {

// Neighbours in memory, aligned to their size: one instruction reads or writes them.
template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  static constexpr int kSize = kCount;
  T values[kCount];

  __device__ __forceinline__ void numbers(compute_t<T> (&to)[kCount]) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      to[i] = Compute<T>::load(values[i]);
    }
  }
};

// The tests count what kernels move.
#ifdef FASTGAN_CUDA_EMULATOR
inline void note_read(size_t bytes) { ::cuda_emulator::Machine::now().count_read(bytes); }
inline void note_written(size_t bytes) { ::cuda_emulator::Machine::now().count_written(bytes); }
#else
__device__ __forceinline__ void note_read(size_t) {}
__device__ __forceinline__ void note_written(size_t) {}
#endif

template <int kCount, typename T>
__device__ __forceinline__ Pack<T, kCount> read(const T* from) {
  note_read(sizeof(Pack<T, kCount>));
  return *reinterpret_cast<const Pack<T, kCount>*>(from);
}

template <int kCount, typename T>
__device__ __forceinline__ void write(T* to, const Pack<T, kCount>& values) {
  note_written(sizeof(Pack<T, kCount>));
  *reinterpret_cast<Pack<T, kCount>*>(to) = values;
}

template <typename T>
__device__ __forceinline__ T read(const T* from) {
  return read<1>(from).values[0];
}

template <typename T>
__device__ __forceinline__ void write(T* to, T value) {
  write<1>(to, Pack<T, 1>{{value}});
}

enum class Type : int32_t { float64, float32, float16, bfloat16 };

// A number per channel, of a dtype that need not be the data's and with a stride; or nothing, where data is null.
struct Vector {
  void* data = nullptr;
  int64_t stride = 1;
  Type type = Type::float32;

  __device__ __forceinline__ explicit operator bool() const { return data != nullptr; }

  __device__ __forceinline__ double get(int64_t i) const {
    const int64_t at = i * stride;
    switch (type) {
      case Type::float64:
        return read(static_cast<const double*>(data) + at);
      case Type::float32:
        return read(static_cast<const float*>(data) + at);
      case Type::float16:
        return Compute<__half>::load(read(static_cast<const __half*>(data) + at));
      default:
        return Compute<__nv_bfloat16>::load(read(static_cast<const __nv_bfloat16*>(data) + at));
    }
  }

  __device__ __forceinline__ void set(int64_t i, double value) const {
    const int64_t at = i * stride;
    switch (type) {
      case Type::float64:
        return write(static_cast<double*>(data) + at, value);
      case Type::float32:
        return write(static_cast<float*>(data) + at, static_cast<float>(value));
      case Type::float16:
        return write(static_cast<__half*>(data) + at, __double2half(value));
      default:
        return write(static_cast<__nv_bfloat16*>(data) + at, __double2bfloat16(value));
    }
  }
};

}  // namespace fastgan
