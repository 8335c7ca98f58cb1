// One pass over the logits on the CPU: loss and derivative from the same exponential.
//
// The data is cut into blocks of a fixed size; each block's losses are added in a fixed order, and so are the blocks' sums,
// in double. The result therefore does not depend on the number of threads.
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <stdexcept>
#include <vector>

#include "bce_with_logits/formula.h"
#include "bce_with_logits/launch.h"

#define FASTGAN_EACH_ISA "bce_with_logits/kernels.inc"
#include "common/each_isa.h"

namespace fastgan {
namespace {

using torch::headeronly::ScalarType;

constexpr int64_t kBlock = 1024;     // elements; the buffers of one block stay in the first-level cache
constexpr int64_t kGrainBlocks = 16;  // blocks worth a thread

struct LibraryMath {
  static double exp_negative(double a) { return std::exp(-a); }
  static double log1p_unit(double e) { return std::log1p(e); }
};

// As bce_with_logits_block of kernels.inc, which is for float.
double bce_with_logits_block(
    const double* input, const double* target, double target_value, double* loss, double* grad, int64_t n) {
  constexpr int64_t kLanes = 8;  // interleaved sums: rounding errors grow with the length of each
  double lanes[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) {
    double element_loss;
    double element_grad;
    bce_with_logits_element<LibraryMath>(
        input[i], target != nullptr ? target[i] : target_value, element_loss, element_grad);
    if (grad != nullptr) {
      grad[i] = element_grad;
    }
    if (loss != nullptr) {
      loss[i] = element_loss;
    }
    lanes[i % kLanes] += element_loss;
  }
  double sum = 0;
  for (const double lane : lanes) {
    sum += lane;
  }
  return sum;
}

template <typename C>
auto block_function() {
  if constexpr (std::is_same_v<C, float>) {
    return FASTGAN_PICK(bce_with_logits_block);
  } else {
    return &bce_with_logits_block;
  }
}

template <typename From, typename To>
void convert(const From* from, To* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    to[i] = static_cast<To>(from[i]);
  }
}

template <typename T>
using compute_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

// What the kernel reads: the values themselves, or a converted copy of them in the buffer.
template <typename T>
const compute_t<T>* source(const T* values, compute_t<T>* buffer, int64_t n) {
  if constexpr (std::is_same_v<T, compute_t<T>>) {
    return values;
  } else if (values == nullptr) {
    return nullptr;
  } else {
    convert(values, buffer, n);
    return buffer;
  }
}

// Where the kernel writes what belongs into `output`, null if that is not wanted; put() then brings it there.
template <typename T>
compute_t<T>* destination(T* output, compute_t<T>* buffer) {
  if constexpr (std::is_same_v<T, compute_t<T>>) {
    return output;
  } else {
    return output != nullptr ? buffer : nullptr;
  }
}

template <typename T>
void put(const compute_t<T>* values, T* output, int64_t n) {
  if constexpr (!std::is_same_v<T, compute_t<T>>) {
    if (output != nullptr) {
      convert(values, output, n);
    }
  }
}

// values + offset, null staying null.
template <typename T>
T* advance(T* values, int64_t offset) {
  return values != nullptr ? values + offset : nullptr;
}

template <typename T>
struct Pointers {
  const T* input;
  const T* target;  // null: every target is target_value
  T* loss;          // null: reduced
  T* grad;          // null: not wanted
};

template <typename T>
void run_blocks(
    const Pointers<T>& data, T target_value, int64_t n, double* block_sums, int64_t first_block, int64_t last_block) {
  using C = compute_t<T>;
  alignas(64) C input[kBlock];
  alignas(64) C target[kBlock];
  alignas(64) C loss[kBlock];
  alignas(64) C grad[kBlock];
  const auto evaluate = block_function<C>();
  for (int64_t block = first_block; block < last_block; ++block) {
    const int64_t begin = block * kBlock;
    const int64_t size = std::min(kBlock, n - begin);
    T* loss_out = advance(data.loss, begin);
    T* grad_out = advance(data.grad, begin);
    C* l = destination(loss_out, loss);
    C* g = destination(grad_out, grad);
    const double sum = evaluate(
        source(data.input + begin, input, size), source(advance(data.target, begin), target, size),
        static_cast<C>(target_value), l, g, size);
    put(l, loss_out, size);
    put(g, grad_out, size);
    if (block_sums != nullptr) {
      block_sums[block] = sum;
    }
  }
}

template <typename T>
void run(const BceWithLogits& problem) {
  const int64_t n = problem.input.numel();
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  const bool reduced = problem.reduction != Reduction::none;
  T* loss = static_cast<T*>(problem.loss.mutable_data_ptr());
  const Pointers<T> data = {
      static_cast<const T*>(problem.input.const_data_ptr()),
      problem.target.has_value() ? static_cast<const T*>(problem.target->const_data_ptr()) : nullptr,
      reduced ? nullptr : loss,
      problem.grad.has_value() ? static_cast<T*>(problem.grad->mutable_data_ptr()) : nullptr,
  };
  const T target_value = static_cast<T>(problem.target_value);
  std::vector<double> block_sums(reduced ? blocks : 0);
  double* sums = reduced ? block_sums.data() : nullptr;
  torch::stable::parallel_for(0, blocks, kGrainBlocks, [&](int64_t first, int64_t last) {
    run_blocks(data, target_value, n, sums, first, last);
  });
  if (reduced) {
    double total = 0;
    for (const double sum : block_sums) {
      total += sum;
    }
    *loss = static_cast<T>(problem.reduction == Reduction::mean ? total / static_cast<double>(n) : total);
  }
}

}  // namespace

void run_bce_with_logits(const BceWithLogits& problem) {
  switch (problem.input.scalar_type()) {
    case ScalarType::Double:
      return run<double>(problem);
    case ScalarType::Float:
      return run<float>(problem);
    case ScalarType::Half:
      return run<torch::headeronly::Half>(problem);
    case ScalarType::BFloat16:
      return run<torch::headeronly::BFloat16>(problem);
    default:
      throw std::logic_error("bce_with_logits: bind.cpp let an unsupported dtype through");
  }
}

}  // namespace fastgan
