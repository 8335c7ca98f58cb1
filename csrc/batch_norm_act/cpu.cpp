// Batch norm + activation on the CPU: passes over memory, and what the sums of one tell the next.
//
// A pass walks memory in order, whatever its layout, and keeps two sums per channel. The tasks' sums are added in
// double and in one order, so no bit depends on the number of threads.
#include "batch_norm_act/launch.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "batch_norm_act/pass.h"
#include "common/isa.h"

#if FASTGAN_X86_ISAS
#include <immintrin.h>
#endif

namespace fastgan {
using torch::headeronly::BFloat16;
using torch::headeronly::Half;
}  // namespace fastgan

#define FASTGAN_EACH_ISA "batch_norm_act/kernels.inc"
#include "common/each_isa.h"

namespace fastgan::batch_norm_act {
namespace {

// A number near each channel's mean: that of a few elements, or 0, from which every x differs without rounding, where
// those elements lie on both sides of it.
template <typename T>
Doubles rough_means(const Pass<T>& pass) {
  constexpr int64_t kSamples = 4;
  const size_t channels = static_cast<size_t>(pass.channels());
  Doubles means(channels), least(channels, HUGE_VAL), most(channels, -HUGE_VAL);
  for (int64_t i = 0; i < kSamples; ++i) {
    const int64_t offset = pass.offset_of((pass.count() - 1) * i / (kSamples - 1));
    for (size_t channel = 0; channel < channels; ++channel) {
      const double x = pass.element(static_cast<int64_t>(channel), offset);
      means[channel] += x / kSamples;
      least[channel] = std::min(least[channel], x);
      most[channel] = std::max(most[channel], x);
    }
  }
  for (size_t channel = 0; channel < channels; ++channel) {
    means[channel] = least[channel] < 0 && most[channel] > 0 ? 0 : static_cast<compute_t<T>>(means[channel]);
  }
  return means;
}

// Mean and sum of squared deviations. Sums are taken of what is left of x after subtracting a number near the mean, and
// where that was an outlier, once more with the mean itself: no square is much larger than what is wanted of it.
template <typename T>
Totals moments(Pass<T>& pass) {
  constexpr double kFar = 0.9;
  const int64_t count = pass.count();
  Doubles centre = rough_means(pass);
  for (bool again = true;; again = false) {
    pass.set(kMean, [&](int64_t channel) { return centre[channel]; });
    Totals totals = pass.reduce(FASTGAN_PICK(batch_norm_act::stats<T>));
    bool far = false;
    for (int64_t channel = 0; channel < pass.channels(); ++channel) {
      double& sum = totals.first[channel];
      double& squares = totals.second[channel];
      const double of_the_mean = sum * sum / static_cast<double>(count);
      far = far || of_the_mean > kFar * squares;
      sum = centre[channel] + sum / static_cast<double>(count);
      squares -= of_the_mean;
      squares = squares < 0 ? 0 : squares;  // NaN stays
    }
    if (!far || !again) {
      return totals;
    }
    for (int64_t channel = 0; channel < pass.channels(); ++channel) {
      centre[channel] = static_cast<double>(static_cast<compute_t<T>>(totals.first[channel]));
    }
  }
}

// `low`: what rounding took from the mean; empty where nothing is known of it.
template <typename T>
void set_affine(Pass<T>& pass, const Affine& affine, const Doubles& low) {
  const int64_t channels = pass.channels();
  const Doubles weight = read_vector(affine.weight, channels, 1), bias = read_vector(affine.bias, channels, 0);
  const Doubles mean = read_vector(affine.mean), rstd = read_vector(affine.rstd);
  pass.set(kMean, [&](int64_t c) { return mean[c]; });
  pass.set(kScale, [&](int64_t c) { return rstd[c] * weight[c]; });
  pass.set(kBias, [&](int64_t c) { return low.empty() ? bias[c] : bias[c] - low[c] * (rstd[c] * weight[c]); });
}

void update(const Running& running, const Doubles& mean, const Doubles& squares, int64_t count) {
  const double old = 1 - running.momentum;
  Doubles running_mean = read_vector(*running.mean), running_var = read_vector(*running.var);
  for (size_t i = 0; i < mean.size(); ++i) {
    running_mean[i] = old * running_mean[i] + running.momentum * mean[i];
    running_var[i] = old * running_var[i] + running.momentum * (squares[i] / static_cast<double>(count - 1));
  }
  write_vector(*running.mean, running_mean);
  write_vector(*running.var, running_var);
}

template <typename T>
void train_as(
    const Tensor& input, const Affine& affine, const Running& running, double eps, Act act, const Tensor& output) {
  Pass<T> pass(input, nullptr, &output, act);
  const auto [mean, squares] = moments(pass);
  if (running.mean.has_value()) {
    update(running, mean, squares, pass.count());
  }
  Doubles rstd(mean.size()), low(mean.size());
  for (size_t i = 0; i < mean.size(); ++i) {
    rstd[i] = 1 / std::sqrt(squares[i] / static_cast<double>(pass.count()) + eps);
    low[i] = mean[i] - static_cast<double>(static_cast<compute_t<T>>(mean[i]));
  }
  write_vector(affine.mean, mean);
  write_vector(affine.rstd, rstd);
  set_affine(pass, affine, low);
  pass.run(FASTGAN_PICK(batch_norm_act::forward<T>));
}

// Sums of g and of g * (x - mean).
template <typename T>
Totals sums_of(Pass<T>& pass, const Affine& affine) {
  set_affine(pass, affine, {});
  return pass.reduce(FASTGAN_PICK(batch_norm_act::backward_reduce<T>));
}

void write_gradients(const Totals& sums, const Affine& affine, const Tensor& grad_weight, const Tensor& grad_bias) {
  Doubles of_weight = read_vector(affine.rstd);
  for (size_t i = 0; i < of_weight.size(); ++i) {
    of_weight[i] *= sums.second[i];
  }
  write_vector(grad_weight, of_weight);
  write_vector(grad_bias, sums.first);
}

template <typename T>
void apply(Pass<T>& pass, const Doubles& per_centred, const Doubles& per_element) {
  pass.set(kPerCentred, [&](int64_t c) { return per_centred[c]; });
  pass.set(kPerElement, [&](int64_t c) { return per_element[c]; });
  pass.set(kPerElementLow, [&](int64_t c) {
    return per_element[c] - static_cast<double>(static_cast<compute_t<T>>(per_element[c]));
  });
  pass.run(FASTGAN_PICK(batch_norm_act::backward_apply<T>));
}

template <typename T>
void backward_as(
    const Tensor& grad_output,
    const Tensor& input,
    const Affine& affine,
    bool training,
    Act act,
    const Tensor& grad_input,
    const Tensor& grad_weight,
    const Tensor& grad_bias) {
  Pass<T> pass(input, &grad_output, training ? nullptr : &grad_input, act);
  Totals sums = sums_of(pass, affine);
  write_gradients(sums, affine, grad_weight, grad_bias);
  if (training) {
    const Doubles rstd = read_vector(affine.rstd);
    const double count = static_cast<double>(pass.count());
    for (size_t i = 0; i < rstd.size(); ++i) {
      sums.first[i] /= count;
      sums.second[i] *= rstd[i] * rstd[i] / count;
    }
    pass.write_to(grad_input);
    apply(pass, sums.second, sums.first);
  }
}

template <typename T>
void stats_as(const Tensor& input, const Tensor& mean, const Tensor& var) {
  Pass<T> pass(input, nullptr, nullptr, {Activation::none, 0});
  auto [means, squares] = moments(pass);
  for (double& each : squares) {
    each /= static_cast<double>(pass.count());
  }
  write_vector(mean, means);
  write_vector(var, squares);
}

}  // namespace

void train(
    const Tensor& input, const Affine& affine, const Running& running, double eps, Act act, const Tensor& output) {
  if (input.numel() == 0) {
    const size_t channels = static_cast<size_t>(input.size(1));
    write_vector(affine.mean, Doubles(channels, 0.0));
    return write_vector(affine.rstd, Doubles(channels, 1 / std::sqrt(eps)));
  }
  with_dtype(input, [&](auto* type) {
    train_as<std::remove_pointer_t<decltype(type)>>(input, affine, running, eps, act, output);
  });
}

void evaluate(const Tensor& input, const Affine& affine, Act act, const Tensor& output) {
  with_dtype(input, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    Pass<T> pass(input, nullptr, &output, act);
    set_affine(pass, affine, {});
    pass.run(FASTGAN_PICK(batch_norm_act::forward<T>));
  });
}

void backward(
    const Tensor& grad_output,
    const Tensor& input,
    const Affine& affine,
    bool training,
    Act act,
    const Tensor& grad_input,
    const Tensor& grad_weight,
    const Tensor& grad_bias) {
  with_dtype(input, [&](auto* type) {
    backward_as<std::remove_pointer_t<decltype(type)>>(
        grad_output, input, affine, training, act, grad_input, grad_weight, grad_bias);
  });
}

void stats(const Tensor& input, const Tensor& mean, const Tensor& var) {
  if (input.numel() == 0) {
    const size_t channels = static_cast<size_t>(input.size(1));
    write_vector(mean, Doubles(channels, 0.0));
    return write_vector(var, Doubles(channels, 0.0));
  }
  with_dtype(input, [&](auto* type) { stats_as<std::remove_pointer_t<decltype(type)>>(input, mean, var); });
}

void backward_reduce(
    const Tensor& grad_output,
    const Tensor& input,
    const Affine& affine,
    Act act,
    const Tensor& grad_weight,
    const Tensor& grad_bias) {
  with_dtype(input, [&](auto* type) {
    Pass<std::remove_pointer_t<decltype(type)>> pass(input, &grad_output, nullptr, act);
    write_gradients(sums_of(pass, affine), affine, grad_weight, grad_bias);
  });
}

void backward_apply(
    const Tensor& grad_output,
    const Tensor& input,
    const Affine& affine,
    const Tensor& per_centred,
    const Tensor& per_element,
    Act act,
    const Tensor& grad_input) {
  with_dtype(input, [&](auto* type) {
    Pass<std::remove_pointer_t<decltype(type)>> pass(input, &grad_output, &grad_input, act);
    set_affine(pass, affine, {});
    apply(pass, read_vector(per_centred), read_vector(per_element));
  });
}

}  // namespace fastgan::batch_norm_act
