"""The discriminator's loss, from real and fake logits at once: schemas, fake kernels, backends."""

from __future__ import annotations

import functools
from typing import Any

import torch

from fastgan.dispatch import Backend, always, define
from fastgan.native import native_reason
from fastgan.ops.bce_with_logits import reference
from fastgan.ops.common import triton_runtime
from fastgan.ops.common.tuning_key import of_arguments


def _forward_fake(
    real: torch.Tensor, fake: torch.Tensor, real_target: float, need_grad: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    first, second = (torch.empty_like(logits) if need_grad else logits.new_empty(0) for logits in (real, fake))
    return real.new_empty(()), first, second


def _backward_fake(
    real_gradient: torch.Tensor, fake_gradient: torch.Tensor, grad_output: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(real_gradient), torch.empty_like(fake_gradient)


def _backward_in_place_fake(*_args: torch.Tensor) -> None:
    return None


def _native(op: str, *args: Any) -> Any:
    return getattr(torch.ops.fastgan_native, op)(*args)


def _triton(op: str, *args: Any) -> Any:
    from fastgan.ops.bce_with_logits import triton_launch  # on first use: see conv_transpose2d

    return getattr(triton_launch, op)(*args)


def _native_supports(*args: Any) -> str | None:
    """Of all three: the first tensors are the two logits or their gradients."""
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    if len({tensor.device for tensor in tensors}) > 1:
        return f"the native loss needs tensors on one device, got {' and '.join(str(t.device) for t in tensors)}"
    if len({tensor.dtype for tensor in tensors}) > 1:
        return f"the native loss needs one dtype, got {' and '.join(str(t.dtype) for t in tensors)}"
    if not all(tensor.is_contiguous() for tensor in tensors[:2]):
        return "the native loss needs contiguous tensors"
    return native_reason(tensors[0].device.type)


def _backends(op: str, reference_run: Any) -> list[Backend]:
    return [
        Backend("native", functools.partial(_native, op), _native_supports, auto_on=frozenset({"cpu"})),
        Backend("triton", functools.partial(_triton, op), triton_runtime.reason),
        Backend("reference", reference_run, always),
    ]


define(
    "discriminator_loss(Tensor real, Tensor fake, float real_target, bool need_grad) "
    "-> (Tensor loss, Tensor real_gradient, Tensor fake_gradient)",
    _forward_fake,
    _backends("discriminator_loss", reference.discriminator_loss),
    tuning_key=of_arguments(0, 1),
)
define(
    "discriminator_loss_backward(Tensor real_gradient, Tensor fake_gradient, Tensor grad_output) -> (Tensor, Tensor)",
    _backward_fake,
    _backends("discriminator_loss_backward", reference.discriminator_loss_backward),
    tuning_key=of_arguments(0, 1),
)
define(
    "discriminator_loss_backward_(Tensor(a!) real_gradient, Tensor(b!) fake_gradient, Tensor grad_output) -> ()",
    _backward_in_place_fake,
    _backends("discriminator_loss_backward_", reference.discriminator_loss_backward_),
)
