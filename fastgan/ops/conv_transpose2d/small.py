"""float32 calls on a CPU for which torch's own op with its own backward is the fastest: small ones most of all, in
which the Python around our ops takes longer than the work.

Once a call has been checked and left to torch, its sizes and options are known, and the next one like it skips even the
checks.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable
from typing import Any

import torch

from fastgan import dispatch
from fastgan.native import native_reason
from fastgan.ops.common import activation
from fastgan.ops.conv_transpose2d import native, selection
from fastgan.ops.conv_transpose2d.geometry import Geometry, Pair, output_memory_format

_ADJOINT = {"conv_transpose2d": "conv2d", "conv2d": "conv_transpose2d"}
_OPS: dict[str, Any] = {"conv_transpose2d": torch.conv_transpose2d, "conv2d": torch.conv2d}
_MOST_KNOWN = 1 << 12
_missing = native_reason("cpu")
_known: dict[Any, Options] = {}
dispatch.remembered.append(_known)

Options = tuple[Any, ...]  # torch's arguments after the bias


def known(op: str, input: Any, weight: Any, bias: Any, options: Options, act: str, negative_slope: float) -> Any:
    """The output by torch, or None where this call is not known to be one for it."""
    if not dispatch.may_leave_to_torch(input, weight, bias):
        return None
    try:
        like = _known.get(_key(op, input, weight, bias, options, act, negative_slope))
    except (AttributeError, IndexError, RuntimeError, TypeError):
        return None  # no tensors, or too few dimensions: the checks say what is wrong
    if like is None or not (all(map(operator.is_, like, options)) or all(map(_is_whole, options))):
        return None
    return _by_torch(op, input, weight, bias, options, act, negative_slope)


def _by_torch(op: str, input: Any, weight: Any, bias: Any, options: Options, act: str, negative_slope: float) -> Any:
    output = _OPS[op](input, weight, bias, *options)
    if act == "none":
        return output
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
    if not dispatch.may_leave_to_torch(input, weight, bias):
        return None  # asked first: a compiler must not see what follows
    if not input.is_cpu or input.dtype is not torch.float32 or input.numel() == 0 or 0 in size:
        return None
    if any(isinstance(option, str) for option in options):
        return None  # "same" is more than torch knows
    by_input = by_weight = False
    if torch.is_grad_enabled():
        by_input, by_weight = input.requires_grad, weight.requires_grad
    gradients = (_ADJOINT[op],) * by_input + ("conv2d_weight",) * by_weight
    if _missing is None:
        pays = None
        if dispatch.has_tables():
            by_torch = functools.partial(_by_torch, op, input, weight, bias, options, act, negative_slope)
            after = () if act == "none" else (activation.AFTER_CONVOLUTIONS[act], negative_slope)
            arguments = (input, weight, bias, size, *geometry, *after)
            pays = _pays_as_measured(op, arguments, gradients, by_torch, _output_padding(op, options))
            if pays is None and dispatch.is_measuring():
                return None  # so that what is not known will be
        if pays is None:
            pays = _pays_whole(native.numbers(op, input, weight, size, *geometry), gradients)
        if pays:
            return None
    if all(map(_is_whole, options)):
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[_key(op, input, weight, bias, options, act, negative_slope)] = options
    return _by_torch(op, input, weight, bias, options, act, negative_slope)


def _pays_as_measured(
    op: str,
    args: tuple[Any, ...],
    gradients: tuple[str, ...],
    by_torch: Callable[[], torch.Tensor],
    output_padding: Any,
) -> bool | None:
    """Whether a call and its gradients, each by its fastest backend, take less than torch's own op and its backward by
    more than our Python does, where a table of measured times (fastgan.tuning) knows; None where it does not. ``args``
    are those of the op; the gradient of the output is taken to have the output's layout."""
    input, weight, _, size, *rest = args
    geometry, up = Geometry(*rest[:4]), op == "conv_transpose2d"
    forward = f"{op}_act" if len(rest) > 4 else op
    channels = weight.shape[1] * geometry.groups if up else weight.shape[0]
    grad = torch.empty((input.shape[0], channels, *size), memory_format=output_memory_format(input, weight))
    pair = (input, grad) if up else (grad, input)
    of_input = dispatch.measured(_ADJOINT[op], grad, weight, None, input.shape[2:], *geometry, gradient=True)
    of_weight = dispatch.measured("conv2d_weight", *pair, weight.shape[2:], *geometry, gradient=up)
    wanted = [name in gradients for name in (_ADJOINT[op], "conv2d_weight")]
    times = [dispatch.measured(forward, *args), *itertools.compress((of_input, of_weight), wanted)]

    def run() -> None:
        by_torch()
        if gradients:
            torch.ops.aten.convolution_backward(
                grad, input, weight, None, *geometry[:3], up, output_padding, geometry.groups, (*wanted, False)
            )

    whole = dispatch.torchs_time(forward, args, " ".join(gradients), run)
    if whole is None or None in times:
        return None
    return selection.pays_for_python(whole - sum(min(time.values()) for time in times if time), len(gradients))


def _output_padding(op: str, options: Options) -> Pair:
    """As a pair; that of a strided convolution is not used."""
    given = options[2] if op == "conv_transpose2d" else 0
    return (given, given) if isinstance(given, int) else tuple(given)


def _is_whole(option: Any) -> bool:
    """Whether it is an int or a tuple of ints, and nothing that is equal to one: True == 1 == 1.0."""
    return type(option) is int or (type(option) is tuple and all(type(number) is int for number in option))


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
