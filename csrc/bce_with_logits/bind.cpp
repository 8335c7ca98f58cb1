// fastgan_native::bce_with_logits and discriminator_loss, their backwards and the in-place forms of these: checks, allocation,
// registration. Compiled into both modules; FASTGAN_DISPATCH_KEY is CPU in one and CUDA in the other.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <array>
#include <optional>
#include <tuple>

#include "bce_with_logits/launch.h"
#include "common/checks.h"
#include "common/schema.h"

namespace fastgan {
namespace {

const Schema schema(
    "bce_with_logits(Tensor input, Tensor? target, float target_value, int reduction, bool need_grad)"
    " -> (Tensor loss, Tensor grad)");
const Schema backward_schema("bce_with_logits_backward(Tensor gradient, Tensor grad_output, int reduction) -> Tensor");
const Schema backward_in_place_schema(
    "bce_with_logits_backward_(Tensor(a!) gradient, Tensor grad_output, int reduction) -> ()");
const Schema discriminator_schema(
    "discriminator_loss(Tensor real, Tensor fake, float real_target, bool need_grad)"
    " -> (Tensor loss, Tensor real_gradient, Tensor fake_gradient)");
const Schema discriminator_backward_schema(
    "discriminator_loss_backward(Tensor real_gradient, Tensor fake_gradient, Tensor grad_output) -> (Tensor, Tensor)");
const Schema discriminator_backward_in_place_schema(
    "discriminator_loss_backward_(Tensor(a!) real_gradient, Tensor(b!) fake_gradient, Tensor grad_output) -> ()");

std::tuple<Tensor, Tensor> bce_with_logits(
    const Tensor& input,
    const std::optional<Tensor>& target,
    double target_value,
    int64_t reduction,
    bool need_grad) {
  constexpr const char* op = "bce_with_logits";
  check_floating(op, "input", input);
  check_contiguous(op, "input", input);
  if (target.has_value()) {
    check_same_dtype(op, "target", *target, "input", input);
    check_same_shape(op, "target", *target, "input", input);
    check_same_device(op, "target", *target, "input", input);
    check_contiguous(op, "target", *target);
  }
  check_reduction(op, reduction);

  const auto mode = static_cast<Reduction>(reduction);
  constexpr std::array<int64_t, 1> no_elements = {0};
  const Tensor loss = mode == Reduction::none ? torch::stable::empty_like(input) : torch::stable::new_empty(input, {});
  const Tensor grad = need_grad ? torch::stable::empty_like(input) : torch::stable::new_empty(input, no_elements);
  run_bce_with_logits(
      {input, target, target_value, mode, loss, need_grad ? std::optional<Tensor>(grad) : std::nullopt});
  return {loss, grad};
}

// Whether every element of the tensor is the same number in memory: 0-d, or expanded from that, as a sum's gradient is.
bool is_one_number(const Tensor& tensor) {
  for (int64_t d = 0; d < tensor.dim(); ++d) {
    if (tensor.stride(d) != 0 && tensor.size(d) != 1) {
      return false;
    }
  }
  return true;
}

// output = gradient * grad_output, over the number of elements for a mean.
void scale(const Tensor& gradient, const Tensor& grad_output, int64_t reduction, const Tensor& output) {
  constexpr const char* op = "bce_with_logits_backward";
  check_floating(op, "gradient", gradient);
  check_contiguous(op, "gradient", gradient);
  check_same_dtype(op, "grad_output", grad_output, "gradient", gradient);
  check_same_device(op, "grad_output", grad_output, "gradient", gradient);
  check_reduction(op, reduction);
  const bool one_number = is_one_number(grad_output);
  if (grad_output.dim() != 0) {
    check_same_shape(op, "grad_output", grad_output, "gradient", gradient);
    check(
        one_number || grad_output.is_contiguous(), op, ": grad_output must be contiguous, or one number expanded");
  }
  if (gradient.numel() == 0) {
    return;
  }
  const double divisor =
      static_cast<Reduction>(reduction) == Reduction::mean ? static_cast<double>(gradient.numel()) : 1.0;
  run_bce_with_logits_backward({gradient, grad_output, one_number, divisor, output});
}

Tensor bce_with_logits_backward(const Tensor& gradient, const Tensor& grad_output, int64_t reduction) {
  const Tensor output = torch::stable::empty_like(gradient);
  scale(gradient, grad_output, reduction, output);
  return output;
}

void bce_with_logits_backward_(const Tensor& gradient, const Tensor& grad_output, int64_t reduction) {
  scale(gradient, grad_output, reduction, gradient);
}

// Both logits, or both gradients.
void check_pair(const char* op, const char* name, const Tensor& real, const char* other_name, const Tensor& fake) {
  check_floating(op, name, real);
  check_contiguous(op, name, real);
  check_same_dtype(op, other_name, fake, name, real);
  check_same_device(op, other_name, fake, name, real);
  check_contiguous(op, other_name, fake);
}

std::tuple<Tensor, Tensor, Tensor> discriminator_loss(
    const Tensor& real, const Tensor& fake, double real_target, bool need_grad) {
  check_pair("discriminator_loss", "real", real, "fake", fake);
  constexpr std::array<int64_t, 1> no_elements = {0};
  const auto gradient_of = [&](const Tensor& logits) {
    return need_grad ? torch::stable::empty_like(logits) : torch::stable::new_empty(logits, no_elements);
  };
  const Tensor loss = torch::stable::new_empty(real, {});
  const Tensor real_grad = gradient_of(real);
  const Tensor fake_grad = gradient_of(fake);
  const auto wanted = [&](const Tensor& grad) { return need_grad ? std::optional<Tensor>(grad) : std::nullopt; };
  run_discriminator_loss({real, fake, real_target, loss, wanted(real_grad), wanted(fake_grad)});
  return {loss, real_grad, fake_grad};
}

void scale_pair(
    const Tensor& real_gradient,
    const Tensor& fake_gradient,
    const Tensor& grad_output,
    const Tensor& real_output,
    const Tensor& fake_output) {
  constexpr const char* op = "discriminator_loss_backward";
  check_pair(op, "real_gradient", real_gradient, "fake_gradient", fake_gradient);
  check_same_dtype(op, "grad_output", grad_output, "real_gradient", real_gradient);
  check_same_device(op, "grad_output", grad_output, "real_gradient", real_gradient);
  check(grad_output.numel() == 1, op, ": grad_output must be one number");
  run_discriminator_loss_backward({real_gradient, fake_gradient, grad_output, real_output, fake_output});
}

std::tuple<Tensor, Tensor> discriminator_loss_backward(
    const Tensor& real_gradient, const Tensor& fake_gradient, const Tensor& grad_output) {
  const Tensor real_output = torch::stable::empty_like(real_gradient);
  const Tensor fake_output = torch::stable::empty_like(fake_gradient);
  scale_pair(real_gradient, fake_gradient, grad_output, real_output, fake_output);
  return {real_output, fake_output};
}

void discriminator_loss_backward_(
    const Tensor& real_gradient, const Tensor& fake_gradient, const Tensor& grad_output) {
  scale_pair(real_gradient, fake_gradient, grad_output, real_gradient, fake_gradient);
}

}  // namespace
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan_native, FASTGAN_DISPATCH_KEY, m) {
  m.impl("bce_with_logits", TORCH_BOX(&fastgan::bce_with_logits));
  m.impl("bce_with_logits_backward", TORCH_BOX(&fastgan::bce_with_logits_backward));
  m.impl("bce_with_logits_backward_", TORCH_BOX(&fastgan::bce_with_logits_backward_));
  m.impl("discriminator_loss", TORCH_BOX(&fastgan::discriminator_loss));
  m.impl("discriminator_loss_backward", TORCH_BOX(&fastgan::discriminator_loss_backward));
  m.impl("discriminator_loss_backward_", TORCH_BOX(&fastgan::discriminator_loss_backward_));
}
