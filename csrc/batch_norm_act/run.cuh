// Which kernels each step launches. The launcher is kernel.cu's, or the emulator's of the tests:
// launch(kernel, blocks, threads, blocks of a cluster or 0, bytes of dynamic shared memory, arguments...) and
// zero(pointer, bytes).
#pragma once

#include <type_traits>

#include "batch_norm_act/kernel.cuh"

namespace fastgan::batch_norm_act {

// Scratch of two passes: parts and tickets of the sums, and the vectors that go from one pass to the other.
class ScratchLayout {
 public:
  explicit ScratchLayout(const GpuPlan& plan) : walk_(plan.walk) {}

  int64_t bytes() const { return tickets() + walk_.groups * int64_t{sizeof(unsigned)}; }

  Scratch in(void* memory) const { return {memory, reinterpret_cast<unsigned*>(static_cast<char*>(memory) + tickets())}; }

  int64_t ticket_bytes() const { return walk_.parts > 1 ? walk_.groups * int64_t{sizeof(unsigned)} : 0; }

  // The first or the second vector of channels, in double.
  Vector vector(void* memory, int which) const {
    return {static_cast<char*>(memory) + parts() + which * walk_.channels * int64_t{sizeof(double)}, 1, Type::float64};
  }

 private:
  int64_t parts() const { return walk_.parts > 1 ? walk_.blocks() * walk_.width * int64_t{sizeof(Moments)} : 0; }
  int64_t tickets() const { return parts() + 2 * walk_.channels * int64_t{sizeof(double)}; }

  Walk walk_;
};

// f with the plan's kernels' parameters as types: f(integral_constant<int, kVector>, integral_constant<bool, kPlanes>).
template <typename T, typename F>
void with_parameters(const GpuPlan& plan, const F& f) {
  constexpr int kWidest = 16 / static_cast<int>(sizeof(T));
  const auto with_vector = [&](auto vector) {
    plan.planes ? f(vector, std::true_type{}) : f(vector, std::false_type{});
  };
  if (plan.vector == kWidest) {
    return with_vector(std::integral_constant<int, kWidest>{});
  }
  if constexpr (kWidest == 8) {
    if (plan.vector == 4) {
      return with_vector(std::integral_constant<int, 4>{});
    }
  }
  with_vector(std::integral_constant<int, 1>{});
}

// `scratch` has ScratchLayout's bytes, aligned to 16; nothing of it is used where the plan has a cluster.
template <typename T, typename Launcher>
void run_train(const Launcher& launcher, const GpuPlan& plan, Operands<T> o, const Statistics& s, void* scratch) {
  o.walk = plan.walk;
  with_parameters<T>(plan, [&](auto vector, auto planes) {
    if (plan.cluster != 0) {
      return launcher.launch(
          batch_norm_act_cluster_kernel<T, vector(), planes()>, plan.walk.blocks(), plan.threads, plan.cluster, plan.dynamic, o,
          s);
    }
    const ScratchLayout layout(plan);
    launcher.zero(layout.in(scratch).tickets, layout.ticket_bytes());
    o.low = layout.vector(scratch, 0);
    launcher.launch(
        batch_norm_act_moments_kernel<T, vector(), planes()>, plan.walk.blocks(), plan.threads, 0, 0, o, s, layout.in(scratch));
    launcher.launch(batch_norm_act_apply_kernel<T, vector(), planes()>, plan.walk.blocks(), plan.threads, 0, 0, o);
  });
}

// Mean and rstd, or the variance, alone.
template <typename T, typename Launcher>
void run_stats(const Launcher& launcher, const GpuPlan& plan, Operands<T> o, const Statistics& s, void* scratch) {
  o.walk = plan.walk;
  with_parameters<T>(plan, [&](auto vector, auto planes) {
    const ScratchLayout layout(plan);
    launcher.zero(layout.in(scratch).tickets, layout.ticket_bytes());
    launcher.launch(
        batch_norm_act_moments_kernel<T, vector(), planes()>, plan.walk.blocks(), plan.threads, 0, 0, o, s, layout.in(scratch));
  });
}

template <typename T, typename Launcher>
void run_evaluate(const Launcher& launcher, const GpuPlan& plan, Operands<T> o) {
  o.walk = plan.walk;
  with_parameters<T>(plan, [&](auto vector, auto planes) {
    launcher.launch(batch_norm_act_apply_kernel<T, vector(), planes()>, plan.walk.blocks(), plan.threads, 0, 0, o);
  });
}

// The gradients of weight and bias, and grad_input unless o.output is null.
template <typename T, typename Launcher>
void run_backward(const Launcher& launcher, const GpuPlan& plan, Operands<T> o, const Gradients& d, void* scratch) {
  o.walk = plan.walk;
  with_parameters<T>(plan, [&](auto vector, auto planes) {
    if (plan.cluster != 0 && o.training && o.output != nullptr) {
      return launcher.launch(
          batch_norm_act_backward_cluster_kernel<T, vector(), planes()>, plan.walk.blocks(), plan.threads, plan.cluster,
          plan.dynamic, o, d);
    }
    const ScratchLayout layout(plan);
    launcher.zero(layout.in(scratch).tickets, layout.ticket_bytes());
    const bool again = o.training && o.output != nullptr;
    Operands<T> first = o;
    Gradients sums = d;
    if (again) {
      first.output = nullptr;
      o.per_centred = sums.per_centred = layout.vector(scratch, 0);
      o.per_element = sums.per_element = layout.vector(scratch, 1);
    }
    launcher.launch(
        batch_norm_act_sums_kernel<T, vector(), planes()>, plan.walk.blocks(), plan.threads, 0, 0, first, sums,
        layout.in(scratch));
    if (again) {
      launcher.launch(batch_norm_act_gradient_kernel<T, vector(), planes()>, plan.walk.blocks(), plan.threads, 0, 0, o);
    }
  });
}

template <typename T, typename Launcher>
void run_backward_apply(const Launcher& launcher, const GpuPlan& plan, Operands<T> o) {
  o.walk = plan.walk;
  with_parameters<T>(plan, [&](auto vector, auto planes) {
    launcher.launch(batch_norm_act_gradient_kernel<T, vector(), planes()>, plan.walk.blocks(), plan.threads, 0, 0, o);
  });
}

}  // namespace fastgan::batch_norm_act
