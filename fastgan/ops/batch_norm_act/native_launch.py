"""What the compiled batch norm + activation runs, and why it does not run the rest: on a CPU, and by CUDA kernels.

Memory is walked in order whatever the layout, so that the kernels ask for one of two, without gaps: [N, C, rest] or
[N, rest, C].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastgan.native import NAMESPACE, native_reason

_ops = getattr(torch.ops, NAMESPACE)
_has_op = hasattr(_ops, "batch_norm_act_train")


def _missing(device_type: str) -> str | None:
    """None if the compiled ops are there for that device, otherwise the reason."""
    missing = native_reason(device_type)
    if missing is None and not _has_op:
        return f"the native {device_type} module is older than fastgan's Python code: build it again"
    return missing


def _dense(tensor: torch.Tensor, channels_last: bool) -> bool:
    return tensor.movedim(1, -1).is_contiguous() if channels_last else tensor.is_contiguous()


def reason(input: torch.Tensor, *_rest: Any) -> str | None:
    """None if forward, or the step of it, can run on ``input``, otherwise the reason."""
    missing = _missing(input.device.type)
    if missing is not None:
        return missing
    if input.is_contiguous() or _dense(input, channels_last=True):
        return None
    return "the native batch norm needs an input without gaps, channels first or last"


def backward_reason(grad_output: torch.Tensor, input: torch.Tensor, *_rest: Any) -> str | None:
    """As :func:`reason`, for the steps of backward."""
    return reason(input)


def _unavailable(*_args: Any) -> Any:
    raise RuntimeError(_missing("cpu"))


def forward(name: str) -> Callable[..., Any]:
    """The compiled op of that name; called only where :func:`reason` is None."""
    return getattr(_ops, name).default if _has_op else _unavailable


def backward(name: str) -> Callable[..., Any]:
    """The same for an op that takes grad_output first: a dense copy of it where it lies in memory as input does not."""
    op = forward(name)

    def run(grad_output: torch.Tensor, input: torch.Tensor, *rest: Any) -> Any:
        if not _dense(grad_output, channels_last=not input.is_contiguous()):
            grad_output = torch.empty_like(input).copy_(grad_output)
        return op(grad_output, input, *rest)

    return run
