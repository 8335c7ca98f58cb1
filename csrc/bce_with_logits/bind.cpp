// fastgan_native::bce_with_logits: checks, allocation, registration. Compiled into both modules; FASTGAN_DISPATCH_KEY is CPU
// in one and CUDA in the other.
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

}  // namespace
}  // namespace fastgan

STABLE_TORCH_LIBRARY_IMPL(fastgan_native, FASTGAN_DISPATCH_KEY, m) {
  m.impl("bce_with_logits", TORCH_BOX(&fastgan::bce_with_logits));
}
