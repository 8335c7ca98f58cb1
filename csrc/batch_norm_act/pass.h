// A pass over a tensor: the tasks, each of which hands a block to a kernel, and the sum of what they found.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <memory>

#include "batch_norm_act/block.h"
#include "batch_norm_act/launch.h"
#include "batch_norm_act/plan.h"
#include "batch_norm_act/vectors.h"
#include "common/workspace.h"

namespace fastgan::batch_norm_act {

// Two numbers per channel.
struct Totals {
  Doubles first;
  Doubles second;
};

template <typename T>
class Pass {
 public:
  using C = compute_t<T>;
  using Kernel = void(const Block<T>&);

  Pass(const Tensor& input, const Tensor* grad_output, const Tensor* output, Act act)
      : view_(*view_of(input)), plan_(plan_for(view_)) {
    const int64_t padded = plan_.width() + kMostLanes;
    storage_ = std::make_unique<C[]>(static_cast<size_t>(kParameters * padded));
    for (int64_t i = 0; i < kParameters; ++i) {
      parameters_[i] = storage_.get() + i * padded;
    }
    block_.input = static_cast<const T*>(input.const_data_ptr());
    block_.grad_output = grad_output == nullptr ? nullptr : static_cast<const T*>(grad_output->const_data_ptr());
    if (output != nullptr) {
      write_to(*output);
    }
    block_.stride = plan_.period;
    block_.inner = plan_.inner;
    block_.planes = plan_.planes;
    block_.exact = count() < kExactCount || channels() == 1;
    block_.relu = act.activation == Activation::relu;
    block_.slope = static_cast<C>(act.activation == Activation::none ? 1 : act.slope);
  }

  void write_to(const Tensor& output) { block_.output = static_cast<T*>(output.mutable_data_ptr()); }

  int64_t channels() const { return view_.channels; }

  // Values per channel.
  int64_t count() const { return view_.outer * view_.inner; }

  // What the channels' elements at one position have in common: the offset in memory. `position` is less than count().
  int64_t offset_of(int64_t position) const {
    return position / view_.inner * view_.channels * view_.inner + position % view_.inner;
  }

  double element(int64_t channel, int64_t offset) const {
    return static_cast<double>(static_cast<C>(block_.input[offset + channel * view_.inner]));
  }

  // value(channel) is the parameter's number.
  template <typename Value>
  void set(Parameter which, const Value& value) {
    const int64_t each = plan_.planes ? 1 : plan_.inner;
    C* const begin = parameters_[which];
    C* end = begin;
    for (int64_t channel = 0; channel < view_.channels && plan_.tasks() != 0; ++channel, end += each) {
      std::fill_n(end, each, static_cast<C>(value(channel)));
    }
    for (const C* from = begin; end < begin + plan_.width();) {  // the rows that are taken as one
      *end++ = *from++;
    }
  }

  void run(Kernel* kernel) { run_tasks(kernel, nullptr); }

  Totals reduce(Kernel* kernel) {
    const int64_t channels = view_.channels;
    Doubles partials(static_cast<size_t>(2 * channels * plan_.row_tasks));  // [row_tasks, 2, channels]
    run_tasks(kernel, partials.data());
    Totals totals{Doubles(static_cast<size_t>(channels)), Doubles(static_cast<size_t>(channels))};
    const double* from = partials.data();
    for (int64_t task = 0; task < plan_.row_tasks; ++task) {
      for (Doubles* to : {&totals.first, &totals.second}) {
        for (double& total : *to) {
          total += *from++;
        }
      }
    }
    return totals;
  }

 private:
  // Values per channel below which an exact mean is worth a quarter more time. So is that of a single channel, whose
  // error no other channel's is there to cover.
  static constexpr int64_t kExactCount = 128;

  void run_tasks(Kernel* kernel, double* partials) const {
    // Backwards: what the pass before this one read last is still in the cache.
    const auto run = [&](int64_t first, int64_t last) {
      for (int64_t task = last - 1; task >= first; --task) {
        run_task(kernel, task, partials);
      }
    };
    if (plan_.small) {
      run(0, plan_.tasks());
    } else {
      torch::stable::parallel_for(0, plan_.tasks(), 1, run);
    }
  }

  void run_task(Kernel* kernel, int64_t task, double* partials) const {
    static thread_local Workspace workspace;
    const int64_t row_task = task / plan_.channel_tasks;
    const int64_t channel = task % plan_.channel_tasks * plan_.channels_per_task;
    const Span span = plan_.span(row_task, channel);
    Block<T> block = block_;
    block.rows = span.rows;
    block.columns = span.columns;
    block.channels = std::min(plan_.channels_per_task, view_.channels - channel);
    block.input += span.offset;
    block.grad_output += block.grad_output == nullptr ? 0 : span.offset;
    block.output += block.output == nullptr ? 0 : span.offset;
    for (int64_t i = 0; i < kParameters; ++i) {
      block.parameters[i] = parameters_[i] + channel * (plan_.planes ? 1 : plan_.inner);
    }
    if (partials != nullptr) {
      const int64_t each = (plan_.planes ? block.channels : divide_up(block.columns, kMostLanes)) * kMostLanes;
      constexpr int64_t kFloats = (sizeof(double) + 2 * sizeof(C)) / sizeof(float);
      block.wide_sum = reinterpret_cast<double*>(workspace.floats(each * kFloats));
      C* sums = reinterpret_cast<C*>(block.wide_sum + each);
      for (int64_t which = 0; which < 2; ++which) {
        block.sums[which] = sums + which * each;
        block.totals[which] = partials + (2 * row_task + which) * view_.channels + channel;
      }
    }
    kernel(block);
  }

  View view_;
  Plan plan_;
  Block<T> block_{};
  std::unique_ptr<C[]> storage_;
  C* parameters_[kParameters];
};

}  // namespace fastgan::batch_norm_act
