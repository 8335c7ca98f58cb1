// One pass over the logits on the CPU: loss and derivative from the same exponential.
//
// The data is cut into blocks of a fixed size; each block's losses are added in a fixed order, and so are the blocks' sums,
// in double. The result therefore does not depend on the number of threads.
#include <torch/csrc/stable/ops.h>

#include <optional>
#include <type_traits>
#include <vector>

#include "bce_with_logits/formula.h"
#include "bce_with_logits/launch.h"
#include "common/dtype.h"

#define FASTGAN_EACH_ISA "bce_with_logits/kernels.inc"
#include "common/each_isa.h"

namespace fastgan {
namespace {

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

// Returns the sum of the losses where they are to be added, which is where data.loss is null.
template <typename T>
double run_all(const Pointers<T>& data, double target_value, int64_t n) {
  const int64_t blocks = (n + kBlock - 1) / kBlock;
  std::vector<double> block_sums(data.loss == nullptr ? blocks : 0);
  double* sums = data.loss == nullptr ? block_sums.data() : nullptr;
  torch::stable::parallel_for(0, blocks, kGrainBlocks, [&](int64_t first, int64_t last) {
    run_blocks(data, static_cast<T>(target_value), n, sums, first, last);
  });
  double total = 0;
  for (const double sum : block_sums) {
    total += sum;
  }
  return total;
}

template <typename T>
T* pointer(const std::optional<torch::stable::Tensor>& tensor) {
  return tensor.has_value() ? static_cast<T*>(tensor->mutable_data_ptr()) : nullptr;
}

template <typename T>
const T* const_pointer(const std::optional<torch::stable::Tensor>& tensor) {
  return tensor.has_value() ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

template <typename T>
void run(const BceWithLogits& problem) {
  const int64_t n = problem.input.numel();
  const bool reduced = problem.reduction != Reduction::none;
  T* loss = static_cast<T*>(problem.loss.mutable_data_ptr());
  const Pointers<T> data = {
      const_pointer<T>(problem.input), const_pointer<T>(problem.target), reduced ? nullptr : loss, pointer<T>(problem.grad)};
  const double total = run_all(data, problem.target_value, n);
  if (reduced) {
    *loss = static_cast<T>(problem.reduction == Reduction::mean ? total / static_cast<double>(n) : total);
  }
}

template <typename T>
void run(const DiscriminatorLoss& problem) {
  const Pointers<T> real = {const_pointer<T>(problem.real), nullptr, nullptr, pointer<T>(problem.real_grad)};
  const Pointers<T> fake = {const_pointer<T>(problem.fake), nullptr, nullptr, pointer<T>(problem.fake_grad)};
  const auto real_count = static_cast<double>(problem.real.numel());
  const auto fake_count = static_cast<double>(problem.fake.numel());
  const double real_mean = run_all(real, problem.real_target, problem.real.numel()) / real_count;
  const double fake_mean = run_all(fake, 0.0, problem.fake.numel()) / fake_count;
  *static_cast<T*>(problem.loss.mutable_data_ptr()) = static_cast<T>(real_mean + fake_mean);
}

}  // namespace

void run_bce_with_logits(const BceWithLogits& problem) {
  with_dtype(problem.input, [&](auto* type) { run<std::remove_pointer_t<decltype(type)>>(problem); });
}

void run_discriminator_loss(const DiscriminatorLoss& problem) {
  with_dtype(problem.real, [&](auto* type) { run<std::remove_pointer_t<decltype(type)>>(problem); });
}

}  // namespace fastgan
