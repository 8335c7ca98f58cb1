"""Calls for which torch's own op with its own backward is the fastest: small ones most of all, in which the Python
around our ops takes longer than the work.

Once a call has been checked and left to torch, its sizes and options are known, and the next one like it skips even the
checks.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import torch

from fastgan import dispatch
from fastgan.native import native_reason
from fastgan.ops.common import activation
from fastgan.ops.conv_transpose2d import native, selection
from fastgan.ops.conv_transpose2d.geometry import Geometry, Pair

_ADJOINT = {"conv_transpose2d": "conv2d", "conv2d": "conv_transpose2d"}
_OPS: dict[str, Any] = {"conv_transpose2d": torch.conv_transpose2d, "conv2d": torch.conv2d}
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # of the compiled kernels
_MOST_KNOWN = 1 << 12
_missing = native_reason("cpu")
_known: set[Any] = set()

Options = tuple[Any, ...]  # torch's arguments after the bias


def known(op: str, input: Any, weight: Any, bias: Any, options: Options, act: str, negative_slope: float) -> Any:
    """The output by torch, or None where this call is not known to be one for it."""
    if torch.compiler.is_compiling() or not _known or not dispatch.may_leave_to_torch(input, weight, bias):
        return None
    try:
        if _key(op, input, weight, bias, options, act, negative_slope) not in _known:
            return None
    except (AttributeError, IndexError, RuntimeError, TypeError):
        return None  # no tensors, or too few dimensions, or options that cannot be hashed: the checks say what is wrong
    output = _OPS[op](input, weight, bias, *options)
    return activation.apply_(output, activation.AFTER_CONVOLUTIONS[act], negative_slope)


def left_to_torch(
    op: str,
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    size: Pair,
    geometry: Geometry,
    options: Options,
    act: str,
    negative_slope: float,
) -> Any:
    """The output by torch, or None where our ops are expected to be faster; the arguments have been checked."""
    if any(isinstance(option, str) for option in options) or 0 in size:
        return None  # what torch does not know
    if not dispatch.may_leave_to_torch(input, weight, bias):
        return None
    if input.is_cpu and input.dtype in _DTYPES and _missing is None:
        by_input = by_weight = False
        if torch.is_grad_enabled():
            by_input, by_weight = input.requires_grad, weight.requires_grad
        gradients = (_ADJOINT[op],) * by_input + ("conv2d_weight",) * by_weight
        if _pays_whole(native.numbers(op, input, weight, size, *geometry), gradients):
            return None
        if len(_known) < _MOST_KNOWN:
            with contextlib.suppress(TypeError):  # a list among the options has no hash
                _known.add(_key(op, input, weight, bias, options, act, negative_slope))
    output = _OPS[op](input, weight, bias, *options)
    return activation.apply_(output, activation.AFTER_CONVOLUTIONS[act], negative_slope)


_pays_whole = functools.lru_cache(maxsize=1 << 12)(selection.pays_whole)


def _key(
    op: str, input: Any, weight: Any, bias: Any, options: Options, act: str, negative_slope: float
) -> tuple[Any, ...]:
    """All that the checks and the choice depend on."""
    gradient = torch.is_grad_enabled()
    return (
        op,
        input.shape,
        weight.shape,
        None if bias is None else (bias.shape, bias.dtype, bias.is_cpu),
        input.dtype,
        weight.dtype,
        input.is_cpu,
        weight.is_cpu,
        input.stride(1) == 1,
        weight.stride(1) == 1,
        gradient and input.requires_grad,
        gradient and weight.requires_grad,
        options,
        act,
        negative_slope,
        torch.is_autocast_enabled("cpu"),
    )
