// One pass over the logits on the CPU: loss and derivative from the same exponential.
//
// The data is cut into blocks of a fixed size; each block's losses are added in a fixed order, and so are the blocks' sums,
// in double. The result therefore does not depend on the number of threads.
#include <torch/csrc/stable/ops.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "bce_with_logits/formula.h"
#include "bce_with_logits/launch.h"

// Without -march the compiler must assume SSE2. This adds a second copy of a function, for AVX2 with FMA, and picks one when
// the library is loaded.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define FASTGAN_MULTIVERSION __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define FASTGAN_MULTIVERSION
#endif

namespace fastgan {
namespace {

using torch::headeronly::ScalarType;

constexpr int64_t kBlock = 1024;     // elements; the buffers of one block stay in the first-level cache
constexpr int64_t kGrainBlocks = 32;  // blocks worth a thread: torch's own grain size of 32768 elements

struct LibraryMath {
  static double exp_negative(double a) { return std::exp(-a); }
  static double log1p_unit(double e) { return std::log1p(e); }
};

// exp and log1p without branches or calls, so that loops over them vectorise. Both are within 2 ulp of the true value.
struct VectorMath {
  // exp(-a) = 2^n * exp(r) with |r| <= log(2) / 2; the polynomial is the one of the Cephes library's expf.
  static FASTGAN_HOST_DEVICE float exp_negative(float a) {
    constexpr float kUnderflow = 104.0f;  // exp(-104) rounds to zero even as a subnormal
    constexpr float kLog2E = 1.44269504088896341f;
    constexpr float kLn2High = 0.693359375f;
    constexpr float kLn2Low = -2.12194440e-4f;
    constexpr float kRoundToInteger = 12582912.0f;  // 1.5 * 2^23: adding it leaves no bits for a fraction
    const float x = a < kUnderflow ? -a : -kUnderflow;
    const float n = (x * kLog2E + kRoundToInteger) - kRoundToInteger;
    const float r = (x - n * kLn2High) - n * kLn2Low;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = (p * r) * r + r + 1.0f;
    // In two factors, as 2^n itself may be subnormal.
    const int32_t exponent = static_cast<int32_t>(n);
    const int32_t half = exponent >> 1;
    return p * power_of_two(half) * power_of_two(exponent - half);
  }

  // log(1 + e) = 2 artanh(s) with s = e / (2 + e) <= 1/3: the series converges by a factor of nine per term.
  static FASTGAN_HOST_DEVICE float log1p_unit(float e) {
    const float s = e / (2.0f + e);
    const float w = s * s;
    float p = 1.0f / 15.0f;
    p = p * w + 1.0f / 13.0f;
    p = p * w + 1.0f / 11.0f;
    p = p * w + 1.0f / 9.0f;
    p = p * w + 1.0f / 7.0f;
    p = p * w + 1.0f / 5.0f;
    p = p * w + 1.0f / 3.0f;
    return 2.0f * (s + s * w * p);
  }

 private:
  static FASTGAN_HOST_DEVICE float power_of_two(int32_t n) {
    const int32_t bits = (n + 127) << 23;
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }
};

FASTGAN_MULTIVERSION
void evaluate(
    const float* __restrict__ x, const float* __restrict__ t, float* __restrict__ loss, float* __restrict__ grad, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    bce_with_logits_element<VectorMath>(x[i], t[i], loss[i], grad[i]);
  }
}

void evaluate(
    const double* __restrict__ x,
    const double* __restrict__ t,
    double* __restrict__ loss,
    double* __restrict__ grad,
    int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    bce_with_logits_element<LibraryMath>(x[i], t[i], loss[i], grad[i]);
  }
}

// Eight interleaved sums: one dependent addition per eight elements, in an order that is always the same.
template <typename C>
double block_sum(const C* values, int64_t n) {
  constexpr int64_t kLanes = 8;
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += static_cast<double>(values[i + lane]);
    }
  }
  double sum = 0;
  for (; i < n; ++i) {
    sum += static_cast<double>(values[i]);
  }
  for (const double lane : lanes) {
    sum += lane;
  }
  return sum;
}

template <typename From, typename To>
void convert(const From* from, To* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    to[i] = static_cast<To>(from[i]);
  }
}

template <typename T>
using compute_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
const compute_t<T>* load(const T* values, compute_t<T>* buffer, int64_t n) {
  if constexpr (std::is_same_v<T, compute_t<T>>) {
    return values;
  } else {
    convert(values, buffer, n);
    return buffer;
  }
}

// Where evaluate() writes: straight into the output when there is one of the right type, otherwise into the buffer.
template <typename T>
compute_t<T>* destination(T* output, compute_t<T>* buffer) {
  if constexpr (std::is_same_v<T, compute_t<T>>) {
    return output != nullptr ? output : buffer;
  } else {
    return buffer;
  }
}

template <typename T>
void store(const compute_t<T>* values, T* output, int64_t n) {
  if constexpr (!std::is_same_v<T, compute_t<T>>) {
    if (output != nullptr) {
      convert(values, output, n);
    }
  }
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
  alignas(64) C grad[kBlock];  // computed even when unwanted: a second loop would save one division per element
  if (data.target == nullptr) {
    std::fill_n(target, kBlock, static_cast<C>(target_value));
  }
  for (int64_t block = first_block; block < last_block; ++block) {
    const int64_t begin = block * kBlock;
    const int64_t size = std::min(kBlock, n - begin);
    T* loss_out = data.loss != nullptr ? data.loss + begin : nullptr;
    T* grad_out = data.grad != nullptr ? data.grad + begin : nullptr;
    const C* x = load(data.input + begin, input, size);
    const C* t = data.target != nullptr ? load(data.target + begin, target, size) : target;
    C* l = destination(loss_out, loss);
    C* g = destination(grad_out, grad);
    evaluate(x, t, l, g, size);
    store(l, loss_out, size);
    store(g, grad_out, size);
    if (block_sums != nullptr) {
      block_sums[block] = block_sum(l, size);
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
