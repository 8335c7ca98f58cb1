"""The sigmoid-BCE slice: schemas, fake kernels, backends. See README.md beside this file."""

from __future__ import annotations

from typing import Any

import torch

from fastgan.dispatch import Backend, always, define
from fastgan.native import native_reason
from fastgan.ops.bce_with_logits import batching, reference
from fastgan.ops.common import triton_runtime
from fastgan.ops.common.tuning_key import of_arguments


def _forward_fake(
    input: torch.Tensor,
    target: torch.Tensor | None,
    target_value: float,
    weight: torch.Tensor | None,
    pos_weight: torch.Tensor | None,
    reduction: int,
    need_grad: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = input.dtype if target is None else target.dtype
    loss = torch.empty_like(input, dtype=dtype) if reduction == reference.NONE else input.new_empty((), dtype=dtype)
    return loss, torch.empty_like(input) if need_grad else input.new_empty(0)


def _triton(name: str) -> Any:
    def run(*args: Any) -> Any:
        from fastgan.ops.bce_with_logits import triton_launch  # on first use: see conv_transpose2d

        return getattr(triton_launch, name)(*args)

    return run


def _native(
    input: torch.Tensor,
    target: torch.Tensor | None,
    target_value: float,
    weight: None,
    pos_weight: None,
    reduction: int,
    need_grad: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ops.fastgan_native.bce_with_logits(input, target, target_value, reduction, need_grad)


def _native_supports(
    input: torch.Tensor,
    target: torch.Tensor | None,
    target_value: float,
    weight: torch.Tensor | None,
    pos_weight: torch.Tensor | None,
    *_rest: Any,
) -> str | None:
    if weight is not None or pos_weight is not None:
        return "the native loss takes neither weight nor pos_weight"
    if not input.is_contiguous() or not (target is None or target.is_contiguous()):
        return "the native loss needs contiguous tensors"
    if target is not None and target.dtype != input.dtype:
        return f"the native loss needs input and target of one dtype, got {input.dtype} and {target.dtype}"
    return native_reason(input.device.type)


define(
    "bce_with_logits(Tensor input, Tensor? target, float target_value, Tensor? weight, Tensor? pos_weight, "
    "int reduction, bool need_grad) -> (Tensor loss, Tensor gradient)",
    _forward_fake,
    [
        Backend("native", _native, _native_supports, auto_on=frozenset({"cpu"})),
        Backend("triton", _triton("forward"), triton_runtime.reason),
        Backend("reference", reference.forward, always),
    ],
    batching.forward_rule,
    tuning_key=of_arguments(0, 1, 3),
)


def _backward_in_place_fake(gradient: torch.Tensor, grad_output: torch.Tensor, reduction: int) -> None:
    return None


def _native_backward(gradient: torch.Tensor, grad_output: torch.Tensor, reduction: int) -> torch.Tensor:
    return torch.ops.fastgan_native.bce_with_logits_backward(gradient, grad_output, reduction)


def _native_backward_in_place(gradient: torch.Tensor, grad_output: torch.Tensor, reduction: int) -> None:
    torch.ops.fastgan_native.bce_with_logits_backward_(gradient, grad_output, reduction)


def _native_backward_supports(gradient: torch.Tensor, grad_output: torch.Tensor, _reduction: int) -> str | None:
    if grad_output.device != gradient.device:
        devices = f"{gradient.device} and {grad_output.device}"
        return f"the native backward of the loss needs tensors on one device, got {devices}"
    if not gradient.is_contiguous():
        return "the native backward of the loss needs a contiguous gradient"
    if grad_output.dtype != gradient.dtype:
        return f"the native backward of the loss needs one dtype, got {gradient.dtype} and {grad_output.dtype}"
    if not grad_output.is_contiguous() and any(grad_output.stride()):  # expanded from one number, all strides are 0
        return "the native backward of the loss needs a contiguous incoming gradient, or one number expanded"
    return native_reason(gradient.device.type)


define(
    "bce_with_logits_backward(Tensor gradient, Tensor grad_output, int reduction) -> Tensor",
    lambda gradient, grad_output, reduction: torch.empty_like(gradient),
    [
        Backend("native", _native_backward, _native_backward_supports, auto_on=frozenset({"cpu"})),
        Backend("triton", _triton("backward"), triton_runtime.reason),
        Backend("reference", reference.backward, always),
    ],
    batching.backward_rule,
    tuning_key=of_arguments(0, 1),
)
define(
    "bce_with_logits_backward_(Tensor(a!) gradient, Tensor grad_output, int reduction) -> ()",
    _backward_in_place_fake,
    [
        Backend("native", _native_backward_in_place, _native_backward_supports, auto_on=frozenset({"cpu"})),
        Backend("triton", _triton("backward_"), triton_runtime.reason),
        Backend("reference", reference.backward_, always),
    ],
)
