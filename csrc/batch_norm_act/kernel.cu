// Launches of batch norm + activation on the current stream. No host synchronisation, no memory but torch's: a CUDA graph can
// capture them. Which kernels: run.cuh.
#include <torch/csrc/stable/ops.h>

#include <array>
#include <cmath>
#include <stdexcept>

#include "batch_norm_act/launch.h"
#include "batch_norm_act/run.cuh"
#include "common/cuda_launch.h"

namespace fastgan::batch_norm_act {
namespace {

using torch::headeronly::ScalarType;

void checked(cudaError_t error) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("batch_norm_act: ") + cudaGetErrorString(error));
  }
}

int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  checked(cudaDeviceGetAttribute(&value, which, device));
  return value;
}

Gpu gpu_of(const Tensor& tensor) {
  const int device = static_cast<int>(tensor.get_device_index());
  return {attribute(cudaDevAttrMultiProcessorCount, device), attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
          attribute(cudaDevAttrComputeCapabilityMajor, device) >= 9};
}

// run.cuh's launcher.
struct Launcher {
  cudaStream_t stream;

  template <typename... Parameters, typename... Arguments>
  void launch(
      void (*kernel)(Parameters...), int64_t blocks, int threads, int cluster, int64_t dynamic, Arguments... arguments) const {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<size_t>(dynamic);
    config.stream = stream;
    cudaLaunchAttribute of_cluster{};
    if (cluster > 1) {
      of_cluster.id = cudaLaunchAttributeClusterDimension;
      of_cluster.val.clusterDim.x = static_cast<unsigned>(cluster);
      of_cluster.val.clusterDim.y = of_cluster.val.clusterDim.z = 1;
      config.attrs = &of_cluster;
      config.numAttrs = 1;
    }
    if (dynamic > 0) {
      checked(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(dynamic)));
    }
    checked(cudaLaunchKernelEx(&config, kernel, arguments...));
  }

  void zero(void* memory, int64_t bytes) const {
    if (bytes > 0) {
      checked(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes), stream));
    }
  }
};

Type type_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Double:
      return Type::float64;
    case ScalarType::Float:
      return Type::float32;
    case ScalarType::Half:
      return Type::float16;
    case ScalarType::BFloat16:
      return Type::bfloat16;
    default:
      throw std::logic_error("batch_norm_act: bind.cpp let an unsupported dtype through");
  }
}

Vector vector_of(const Tensor& tensor) {
  return {const_cast<void*>(tensor.const_data_ptr()), tensor.stride(0), type_of(tensor)};
}

Vector vector_of(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? vector_of(*tensor) : Vector{};
}

// One step: the device and its stream, the plan, and what all kernels take.
class Step {
 public:
  // grad_output and output may be null.
  Step(const Tensor& input, const Tensor* grad_output, const Tensor* output, const Affine& affine, Act act)
      : device_(input), input_(input), grad_output_(grad_output), output_(output), affine_(affine), act_(act) {
    const View view = *view_of(input);
    const int64_t itemsize = static_cast<int64_t>(input.element_size());
    const auto address = [](const Tensor* tensor) { return tensor == nullptr ? nullptr : tensor->const_data_ptr(); };
    const int64_t alignment = alignment_of({address(&input), address(grad_output), address(output)});
    plan_ = gpu_plan(
        view.outer, view.channels, view.inner, itemsize, grad_output == nullptr ? 1 : 2, alignment,
        gpu_of(input));
  }

  const GpuPlan& plan() const { return plan_; }
  Launcher launcher() const { return {device_.stream()}; }

  // Kept by torch for the stream until the kernels that are launched now have run.
  void* scratch() {
    const std::array<int64_t, 1> bytes = {ScratchLayout(plan_).bytes()};
    scratch_ = torch::stable::new_empty(input_, bytes, ScalarType::Byte);
    return scratch_->mutable_data_ptr();
  }

  template <typename T>
  Operands<T> operands() const {
    Operands<T> o{};
    o.input = static_cast<const T*>(input_.const_data_ptr());
    o.grad_output = grad_output_ == nullptr ? nullptr : static_cast<const T*>(grad_output_->const_data_ptr());
    o.output = output_ == nullptr ? nullptr : static_cast<T*>(output_->mutable_data_ptr());
    o.weight = vector_of(affine_.weight);
    o.bias = vector_of(affine_.bias);
    o.mean = vector_of(affine_.mean);
    o.rstd = vector_of(affine_.rstd);
    o.relu = act_.activation == Activation::relu;
    o.slope = act_.activation == Activation::none ? 1 : act_.slope;
    return o;
  }

 private:
  DeviceAndStream device_;
  const Tensor& input_;
  const Tensor* grad_output_;
  const Tensor* output_;
  const Affine& affine_;
  Act act_;
  GpuPlan plan_;
  std::optional<Tensor> scratch_;
};

void fill(const Tensor& vector, double value) {
  Tensor same = vector;
  torch::stable::fill_(same, value);
}

}  // namespace

void train(
    const Tensor& input, const Affine& affine, const Running& running, double eps, Act act, const Tensor& output) {
  if (input.numel() == 0) {
    fill(affine.mean, 0);
    return fill(affine.rstd, 1 / std::sqrt(eps));
  }
  Step step(input, nullptr, &output, affine, act);
  with_device_dtype(input, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    const Statistics statistics{vector_of(running.mean), vector_of(running.var), running.momentum, eps, false};
    void* const scratch = step.plan().cluster == 0 ? step.scratch() : nullptr;
    run_train(step.launcher(), step.plan(), step.operands<T>(), statistics, scratch);
  });
}

void evaluate(const Tensor& input, const Affine& affine, Act act, const Tensor& output) {
  if (input.numel() == 0) {
    return;
  }
  Step step(input, nullptr, &output, affine, act);
  with_device_dtype(input, [&](auto* type) {
    run_evaluate(step.launcher(), step.plan(), step.operands<std::remove_pointer_t<decltype(type)>>());
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
  if (input.numel() == 0) {
    fill(grad_weight, 0);
    return fill(grad_bias, 0);
  }
  Step step(input, &grad_output, &grad_input, affine, act);
  with_device_dtype(input, [&](auto* type) {
    auto operands = step.operands<std::remove_pointer_t<decltype(type)>>();
    operands.training = training;
    void* const scratch = step.plan().cluster == 0 || !training ? step.scratch() : nullptr;
    run_backward(step.launcher(), step.plan(), operands, {vector_of(grad_weight), vector_of(grad_bias), {}, {}}, scratch);
  });
}

void stats(const Tensor& input, const Tensor& mean, const Tensor& var) {
  if (input.numel() == 0) {
    fill(mean, 0);
    return fill(var, 0);
  }
  const std::optional<Tensor> nothing;
  const Affine affine{nothing, nothing, mean, var};
  Step step(input, nullptr, nullptr, affine, {Activation::none, 1});
  with_device_dtype(input, [&](auto* type) {
    const Statistics statistics{{}, {}, 0, 0, true};
    run_stats(
        step.launcher(), step.plan(), step.operands<std::remove_pointer_t<decltype(type)>>(), statistics, step.scratch());
  });
}

void backward_reduce(
    const Tensor& grad_output,
    const Tensor& input,
    const Affine& affine,
    Act act,
    const Tensor& grad_weight,
    const Tensor& grad_bias) {
  if (input.numel() == 0) {
    fill(grad_weight, 0);
    return fill(grad_bias, 0);
  }
  Step step(input, &grad_output, nullptr, affine, act);
  with_device_dtype(input, [&](auto* type) {
    auto operands = step.operands<std::remove_pointer_t<decltype(type)>>();
    const Gradients gradients{vector_of(grad_weight), vector_of(grad_bias), {}, {}};
    run_backward(step.launcher(), step.plan(), operands, gradients, step.scratch());
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
  if (input.numel() == 0) {
    return;
  }
  Step step(input, &grad_output, &grad_input, affine, act);
  with_device_dtype(input, [&](auto* type) {
    auto operands = step.operands<std::remove_pointer_t<decltype(type)>>();
    operands.per_centred = vector_of(per_centred);
    operands.per_element = vector_of(per_element);
    run_backward_apply(step.launcher(), step.plan(), operands);
  });
}

}  // namespace fastgan::batch_norm_act
