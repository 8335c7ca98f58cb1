// What the emulator's program is asked to run: a job is a line of words, then the raw arrays that it takes.
#pragma once

#include <cstdint>
#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "emulator.h"

namespace cuda_emulator {

// An array of exactly so many elements, beyond whose end AddressSanitizer sees, and beyond whose beginning where skipped is 0;
// otherwise it begins so many elements after an address that is a multiple of 16.
template <typename T>
class Array {
 public:
  explicit Array(size_t count, size_t skipped = 0) : count_(count), skipped_(skipped), data_(new T[skipped + count]) {
    std::memset(static_cast<void*>(get()), kAllBytes, bytes());
  }
  T* get() { return data_.get() + skipped_; }
  size_t bytes() const { return count_ * sizeof(T); }

 private:
  size_t count_, skipped_;
  std::unique_ptr<T[]> data_;
};

// The job that is being read, and its answer.
class Job {
 public:
  explicit Job(std::istream& words) : words_(words) {}

  template <typename T>
  T word() {
    T value;
    if (!(words_ >> value)) {
      throw std::invalid_argument("a word is missing or wrong");
    }
    return value;
  }

  template <typename T>
  Array<T> array(size_t count, size_t skipped = 0) {
    Array<T> array(count, skipped);
    if (!std::cin.read(reinterpret_cast<char*>(array.get()), static_cast<std::streamsize>(array.bytes()))) {
      throw std::invalid_argument("an array is too short");
    }
    return array;
  }

  template <typename T>
  void answer(Array<T>& array) {
    const char* bytes = reinterpret_cast<const char*>(array.get());
    answer_.insert(answer_.end(), bytes, bytes + array.bytes());
  }

  const std::vector<char>& answered() const { return answer_; }

 private:
  std::istream& words_;
  std::vector<char> answer_;
};

// f(a null pointer to the job's next word, a dtype by its name, as device code has it).
template <typename F>
void with_dtype(Job& job, const F& f) {
  const auto dtype = job.word<std::string>();
  if (dtype == "float64") {
    return f(static_cast<double*>(nullptr));
  }
  if (dtype == "float32") {
    return f(static_cast<float*>(nullptr));
  }
  if (dtype == "float16") {
    return f(static_cast<__half*>(nullptr));
  }
  if (dtype == "bfloat16") {
    return f(static_cast<__nv_bfloat16*>(nullptr));
  }
  throw std::invalid_argument("no such dtype: " + dtype);
}

void batch_norm_act(Job& job);
void bce_with_logits(Job& job);
void bce_with_logits_backward(Job& job);
void discriminator_loss(Job& job);
void discriminator_loss_backward(Job& job);
void fault(Job& job);

}  // namespace cuda_emulator
