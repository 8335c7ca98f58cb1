"""Dtype rules that all slices share."""

from __future__ import annotations

import math
from typing import Any

import torch

FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def accumulate_type(dtype: torch.dtype) -> torch.dtype:
    """The dtype of sums and statistics: float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype is torch.float64 else torch.float32


def is_half(dtype: torch.dtype) -> bool:
    """Whether ``dtype`` is one of the two 16-bit formats."""
    return dtype in (torch.float16, torch.bfloat16)


def check_floating(name: str, tensor: torch.Tensor) -> None:
    """Raise a TypeError that names the argument unless its dtype is one that the kernels know."""
    if tensor.dtype not in FLOATING:
        raise TypeError(
            f"{name} must have dtype float64, float32, float16 or bfloat16, but got {str(tensor.dtype)[6:]}"
        )


def round_to(dtype: torch.dtype, value: float) -> float:
    """The value that a tensor of ``dtype`` filled with ``value`` holds; makes no tensor, so compilers see a number."""
    if dtype is torch.float64 or value == 0:
        return value
    info = torch.finfo(dtype)
    quantum = max(math.ldexp(info.eps, math.frexp(value)[1] - 1), info.smallest_normal * info.eps)
    return round(value / quantum) * quantum


def autocast_low(*tensors: Any) -> tuple[Any, ...]:
    """Under ``torch.autocast`` on the first one's device: floating tensors but float64 in the autocast dtype, as torch
    does for convolutions."""
    device = tensors[0].device.type
    if not _autocasts(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(_cast(tensor, dtype) for tensor in tensors)


def autocast_wide(*tensors: Any) -> tuple[Any, ...]:
    """Under ``torch.autocast`` on the first one's device: 16-bit tensors in float32, as torch does for losses."""
    device = tensors[0].device.type
    if not _autocasts(device):
        return tensors
    return tuple(_cast(tensor, torch.float32) for tensor in tensors)


def _autocasts(device: str) -> bool:
    """Whether autocast is on; torch raises for "meta", which has none."""
    return device != "meta" and torch.is_autocast_enabled(device)


def _cast(tensor: Any, dtype: torch.dtype) -> Any:
    if not isinstance(tensor, torch.Tensor) or tensor.dtype not in FLOATING or tensor.dtype is torch.float64:
        return tensor
    return tensor.to(dtype)
