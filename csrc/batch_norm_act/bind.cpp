// fastgan_native::batch_norm_act_*: checks, allocation, registration. Compiled into both modules; FASTGAN_DISPATCH_KEY is CPU in
// one and CUDA in the other.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <optional>
#include <tuple>

#include "batch_norm_act/launch.h"
#include "common/checks.h"
#include "common/schema.h"

namespace fastgan {
namespace {

using Vector = std::optional<Tensor>;
namespace bn = batch_norm_act;

const Schema train_schema(
    "batch_norm_act_train(Tensor input, Tensor? weight, Tensor? bias, Tensor(a!)? running_mean,"
    " Tensor(b!)? running_var, float momentum, float eps, int activation, float negative_slope)"
    " -> (Tensor output, Tensor mean, Tensor rstd)");
const Schema eval_schema(
    "batch_norm_act_eval(Tensor input, Tensor? weight, Tensor? bias, Tensor mean, Tensor rstd, int activation,"
    " float negative_slope) -> Tensor");
const Schema backward_schema(
    "batch_norm_act_backward(Tensor grad_output, Tensor input, Tensor? weight, Tensor? bias, Tensor mean, Tensor rstd,"
    " bool training, int activation, float negative_slope)"
    " -> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
const Schema stats_schema("batch_norm_act_stats(Tensor input) -> (Tensor mean, Tensor var)");
const Schema backward_reduce_schema(
    "batch_norm_act_backward_reduce(Tensor grad_output, Tensor input, Tensor? weight, Tensor? bias, Tensor mean,"
    " Tensor rstd, int activation, float negative_slope) -> (Tensor grad_weight, Tensor grad_bias)");
const Schema backward_apply_schema(
    "batch_norm_act_backward_apply(Tensor grad_output, Tensor input, Tensor? weight, Tensor? bias, Tensor mean,"
    " Tensor rstd, Tensor per_centred, Tensor per_element, int activation, float negative_slope) -> Tensor grad_input");

constexpr const char* kOp = "batch_norm_act";

void check_input(const Tensor& input) {
  check_floating(kOp, "input", input);
  check(input.dim() >= 2, kOp, ": input must have at least 2 dimensions");
  check(
      bn::view_of(input).has_value(), kOp, ": input must be dense in memory, as [N, C, ...] or with the channels last");
}

void check_vector(const char* name, const Tensor& vector, const Tensor& input) {
  check_floating(kOp, name, vector);
  check_same_device(kOp, name, vector, "input", input);
  check(
      vector.dim() == 1 && vector.size(0) == input.size(1), kOp, ": ", name, " must be a vector of ", input.size(1),
      " elements");
}

void check_vector(const char* name, const Vector& vector, const Tensor& input) {
  if (vector.has_value()) {
    check_vector(name, *vector, input);
  }
}

void check_affine(const bn::Affine& affine, const Tensor& input) {
  check_vector("weight", affine.weight, input);
  check_vector("bias", affine.bias, input);
  check_vector("mean", affine.mean, input);
  check_vector("rstd", affine.rstd, input);
}

void check_grad_output(const Tensor& grad_output, const Tensor& input) {
  check_same_dtype(kOp, "grad_output", grad_output, "input", input);
  check_same_shape(kOp, "grad_output", grad_output, "input", input);
  check_same_device(kOp, "grad_output", grad_output, "input", input);
  const auto of_grad = bn::view_of(grad_output), of_input = bn::view_of(input);
  check(
      of_grad.has_value() && of_grad->inner == of_input->inner, kOp,
      ": grad_output must lie in memory as input does");
}

bn::Act act_of(int64_t activation, double slope) {
  check(
      activation >= 0 && activation <= static_cast<int64_t>(Activation::leaky_relu), kOp,
      ": activation must be 0 (none), 1 (relu) or 2 (leaky_relu), got ", activation);
  return {static_cast<Activation>(activation), slope};
}

Tensor new_vector(const Tensor& input, bool wide) {
  const std::array<int64_t, 1> size = {input.size(1)};
  const bool as_double = wide || input.scalar_type() == ScalarType::Double;
  return torch::stable::new_empty(input, size, as_double ? ScalarType::Double : ScalarType::Float);
}

std::tuple<Tensor, Tensor, Tensor> train(
    const Tensor& input,
    const Vector& weight,
    const Vector& bias,
    const Vector& running_mean,
    const Vector& running_var,
    double momentum,
    double eps,
    int64_t activation,
    double negative_slope) {
  check_input(input);
  check_vector("running_mean", running_mean, input);
  check_vector("running_var", running_var, input);
  check(
      running_mean.has_value() == running_var.has_value(), kOp,
      ": running_mean and running_var must be given together");
  const Tensor output = torch::stable::empty_like(input);
  const Tensor mean = new_vector(input, false), rstd = new_vector(input, false);
  const bn::Affine affine{weight, bias, mean, rstd};
  check_affine(affine, input);
  bn::train(input, affine, {running_mean, running_var, momentum}, eps, act_of(activation, negative_slope), output);
  return {output, mean, rstd};
}

Tensor evaluate(
    const Tensor& input,
    const Vector& weight,
    const Vector& bias,
    const Tensor& mean,
    const Tensor& rstd,
    int64_t activation,
    double negative_slope) {
  check_input(input);
  const bn::Affine affine{weight, bias, mean, rstd};
  check_affine(affine, input);
  const Tensor output = torch::stable::empty_like(input);
  bn::evaluate(input, affine, act_of(activation, negative_slope), output);
  return output;
}

std::tuple<Tensor, Tensor, Tensor> backward(
    const Tensor& grad_output,
    const Tensor& input,
    const Vector& weight,
    const Vector& bias,
    const Tensor& mean,
    const Tensor& rstd,
    bool training,
    int64_t activation,
    double negative_slope) {
  check_input(input);
  check_grad_output(grad_output, input);
  const bn::Affine affine{weight, bias, mean, rstd};
  check_affine(affine, input);
  const Tensor grad_input = torch::stable::empty_like(input);
  const Tensor grad_weight = new_vector(input, false), grad_bias = new_vector(input, false);
  bn::backward(
      grad_output, input, affine, training, act_of(activation, negative_slope), grad_input, grad_weight, grad_bias);
  return {grad_input, grad_weight, grad_bias};
}

std::tuple<Tensor, Tensor> stats(const Tensor& input) {
  check_input(input);
  const Tensor mean = new_vector(input, true), var = new_vector(input, true);
  bn::stats(input, mean, var);
  return {mean, var};
}

std::tuple<Tensor, Tensor> backward_reduce(
    const Tensor& grad_output,
    const Tensor& input,
    const Vector& weight,
    const Vector& bias,
    const Tensor& mean,
    const Tensor& rstd,
    int64_t activation,
    double negative_slope) {
  check_input(input);
  check_grad_output(grad_output, input);
  const bn::Affine affine{weight, bias, mean, rstd};
  check_affine(affine, input);
  const Tensor grad_weight = new_vector(input, true), grad_bias = new_vector(input, true);
  bn::backward_reduce(grad_output, input, affine, act_of(activation, negative_slope), grad_weight, grad_bias);
  return {grad_weight, grad_bias};
}

Tensor backward_apply(
    const Tensor& grad_output,
    const Tensor& input,
    const Vector& weight,
    const Vector& bias,
    const Tensor& mean,
    const Tensor& rstd,
    const Tensor& per_centred,
    const Tensor& per_element,
    int64_t activation,
    double negative_slope) {
  check_input(input);
  check_grad_output(grad_output, input);
  const bn::Affine affine{weight, bias, mean, rstd};
  check_affine(affine, input);
  check_vector("per_centred", per_centred, input);
  check_vector("per_element", per_element, input);
  const Tensor grad_input = torch::stable::empty_like(input);
  bn::backward_apply(
      grad_output, input, affine, per_centred, per_element, act_of(activation, negative_slope), grad_input);
  return grad_input;
}

}  // namespace
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan_native, FASTGAN_DISPATCH_KEY, m) {
  m.impl("batch_norm_act_train", TORCH_BOX(&fastgan::train));
  m.impl("batch_norm_act_eval", TORCH_BOX(&fastgan::evaluate));
  m.impl("batch_norm_act_backward", TORCH_BOX(&fastgan::backward));
  m.impl("batch_norm_act_stats", TORCH_BOX(&fastgan::stats));
  m.impl("batch_norm_act_backward_reduce", TORCH_BOX(&fastgan::backward_reduce));
  m.impl("batch_norm_act_backward_apply", TORCH_BOX(&fastgan::backward_apply));
}
