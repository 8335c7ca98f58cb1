"""What the compiled batch norm + activation runs, and why it does not run the rest. CPU only.

Memory is walked in order whatever the layout, so that the kernels ask for one of two: [N, C, rest] or [N, rest, C], dense.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastgan.native import native_reason
from fastgan.ops.common.dtypes import FLOATING

_missing = native_reason("cpu")


def run(name: str) -> Callable[..., Any]:
    """The compiled op; only called where :func:`reason` or :func:`backward_reason` is None."""
    return getattr(torch.ops.fastgan_native, name).default if _missing is None else _absent


def _absent(*_args: Any) -> Any:
    raise RuntimeError(_missing)


def reason(input: torch.Tensor, *_rest: Any) -> str | None:
    """None if forward, or a step of it, can run on ``input``, otherwise the reason."""
    if _missing is not None:
        return _missing
    if not input.is_cpu:
        return f"the native batch norm runs on the CPU, got a tensor on {input.device.type}"
    if input.is_contiguous() or input.movedim(1, -1).is_contiguous():
        return None if input.dtype in FLOATING else f"the native batch norm has no kernel for {input.dtype}"
    return "the native batch norm needs a dense input, channels first or last"


def backward_reason(grad_output: torch.Tensor, input: torch.Tensor, *_rest: Any) -> str | None:
    """None if a step of backward can run, otherwise the reason."""
    why = reason(input)
    if why is not None:
        return why
    if input.is_contiguous():
        alike = grad_output.is_contiguous()
    else:
        alike = grad_output.movedim(1, -1).is_contiguous()
    return None if alike else "the native batch norm needs a grad_output that lies in memory as the input does"
