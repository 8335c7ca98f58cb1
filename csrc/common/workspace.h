// Scratch memory that a thread keeps between calls: a fresh allocation of this size would cost page faults every time.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace fastgan {

// Grows, never shrinks; freed with its thread. The contents are not kept when it grows.
class Workspace {
 public:
  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { std::free(data_); }

  // At least `floats` floats, aligned to 64 bytes. The pointer is good until the next call on this object.
  float* floats(int64_t floats) {
    if (floats > capacity_) {
      std::free(data_);
      capacity_ = 0;
      const int64_t bytes = (floats * static_cast<int64_t>(sizeof(float)) + 63) / 64 * 64;
      data_ = static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(bytes)));
      if (data_ == nullptr) {
        throw std::bad_alloc();
      }
      capacity_ = bytes / static_cast<int64_t>(sizeof(float));
    }
    return data_;
  }

 private:
  float* data_ = nullptr;
  int64_t capacity_ = 0;
};

// This thread's, for the work of one task and for what all tasks of a call read; a call may use both.
inline Workspace& task_memory() {
  thread_local Workspace memory;
  return memory;
}

inline Workspace& shared_memory() {
  thread_local Workspace memory;
  return memory;
}

}  // namespace fastgan
