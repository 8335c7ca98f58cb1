"""Shape arithmetic and argument checks of the convolutions, with torch's own words where torch has them.

All three linear maps of this slice see one picture. There is a *small* image (the input of the transposed convolution,
the output of the strided one) and a *big* one; small pixel ``i`` and kernel tap ``k`` touch big pixel

    o = i * stride - padding + k * dilation        (per spatial axis; pixels outside the big image are zero)

``padding`` is what is cropped *before* the first pixel. What happens after the last one follows from the two sizes,
which are explicit; so torch's symmetric padding, output_padding and TensorFlow's uneven "SAME" are all the same thing
here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch

from fastgan.ops.common.dtypes import check_floating

Pair = tuple[int, ...]  # (height, width)


class Geometry(NamedTuple):
    """What relates the small and the big image. Pairs are (height, width)."""

    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int


def pair(name: str, value: int | Sequence[int], function: str) -> Pair:
    """One int or two as a pair; anything else raises in torch's words."""
    if type(value) is int:
        return (value, value)
    if type(value) is tuple and len(value) == 2 and type(value[0]) is type(value[1]) is int:
        return value
    if isinstance(value, int | torch.SymInt) and _is_int(value):
        return (value, value)
    if isinstance(value, Sequence) and not isinstance(value, str) and all(_is_int(v) for v in value):
        if len(value) == 1:
            return (value[0], value[0])
        if len(value) == 2:
            return (value[0], value[1])
        raise RuntimeError(
            f"expected {name} to be a single integer value or a list of 2 values to match the convolution dimensions, "
            f"but got {name}={list(value)}"
        )
    raise TypeError(f"{function}(): argument '{name}' must be tuple of ints, not {type(value).__name__}")


def _is_int(value: object) -> bool:
    return isinstance(value, (int, torch.SymInt)) and not isinstance(value, bool)


def check_tensors(function: str, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Check what the tensors of a batched call are; how their shapes fit together is :func:`check_shapes`'s.

    Raises:
        TypeError: an argument is no tensor, or its dtype is not a floating one that the kernels know.
        RuntimeError: dtypes or devices do not fit; torch's messages.
    """
    dtype, device = input.dtype, input.device
    for name, tensor in (("input", input), ("weight", weight), ("bias", bias)):
        if tensor is None and name == "bias":
            continue
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{function}(): argument '{name}' must be Tensor, not {type(tensor).__name__}")
        if tensor.dtype is not dtype or name == "input":
            check_floating(name, tensor)
        if tensor.dtype is not dtype:
            raise RuntimeError(
                f"Input type ({input.type()}) and {name} type ({tensor.type()}) should be the same "
                f"(input is {dtype}, {name} is {tensor.dtype})"
            )
        if tensor.device != device:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but input is on {device} and {name} on {tensor.device}"
            )


def check_shapes(function: str, input: Pair, weight: Pair, bias: Pair | None, groups: int, transposed: bool) -> None:
    """Check that the shapes of a batched call fit together.

    Raises:
        RuntimeError: ranks, channels, groups or bias do not fit; torch's messages.
    """
    size = list(weight)
    if len(weight) != 4:
        raise RuntimeError(f"{function}: expected weight to have 4 dimensions, but got weight of size {size}")
    if groups <= 0:
        raise RuntimeError("non-positive groups is not supported")
    given = (
        f"Given transposed=1, weight of size {size}" if transposed else f"Given groups={groups}, weight of size {size}"
    )
    if weight[0] < groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be at least {groups} at dimension 0, "
            f"but got weight of size {size} instead"
        )
    if weight[0] % groups != 0:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, "
            f"but got weight of size [{size}] instead"
        )
    if min(weight[1:]) < 1:
        raise RuntimeError(f"{function}: weight must not have a dimension of size 0, but got weight of size {size}")
    in_channels = weight[0] if transposed else weight[1] * groups
    if input[1] != in_channels:
        raise RuntimeError(
            f"{given}, expected input{list(input)} to have {in_channels} channels, but got {input[1]} channels instead"
        )
    out_channels = weight[1] * groups if transposed else weight[0]
    if bias is not None and (len(bias) != 1 or bias[0] != out_channels):
        raise RuntimeError(
            f"Given {'transposed=1, ' if transposed else ''}weight of size {size}, expected bias to be 1-dimensional "
            f"with {out_channels} elements, but got bias of size {list(bias)} instead"
        )
    if min(input[2:]) < 1:
        raise RuntimeError(f"Only zero batch or zero channel inputs are supported, but got input shape: {list(input)}")


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def _remembered(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """``function`` of sizes, which a network asks for again and again; not for a compiler, and not for its symbols,
    which cannot be hashed. What raises is not remembered."""
    cached: Any = functools.lru_cache(maxsize=1 << 12)(function)

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        try:
            return cached(*args, **kwargs)
        except TypeError:
            return function(*args, **kwargs)

    return call


@_remembered
def conv_transpose2d_geometry(
    input: Pair,
    weight: Pair,
    bias: Pair | None,
    stride: Pair,
    padding: Pair | str,
    output_padding: Pair,
    groups: int,
    dilation: Pair,
) -> tuple[Geometry, Pair]:
    """(the geometry, the output's size) of a transposed convolution of tensors of these shapes, which are checked."""
    check_shapes("conv_transpose2d", input, weight, bias, groups, transposed=True)
    before, size = conv_transpose2d_sizes(
        tuple(input[2:]), tuple(weight[2:]), stride, padding, output_padding, dilation
    )
    return Geometry(stride, before, dilation, groups), size


@_remembered
def conv2d_geometry(
    input: Pair, weight: Pair, bias: Pair | None, stride: Pair, padding: Pair | str, groups: int, dilation: Pair
) -> tuple[Geometry, Pair]:
    """(the geometry, the output's size) of a strided convolution of tensors of these shapes, which are checked."""
    check_shapes("conv2d", input, weight, bias, groups, transposed=False)
    before, size = conv2d_sizes(tuple(input[2:]), tuple(weight[2:]), stride, padding, dilation)
    return Geometry(stride, before, dilation, groups), size


def whole(name: str, value: int, function: str) -> int:
    """``value``, which must be an int."""
    if not _is_int(value):
        raise TypeError(f"{function}(): argument '{name}' must be int, not {type(value).__name__}")
    return value


def check_rank(function: str, input: torch.Tensor) -> None:
    """Raise in torch's words unless the input has 3 (unbatched) or 4 dimensions."""
    if not isinstance(input, torch.Tensor):
        raise TypeError(f"{function}(): argument 'input' (position 1) must be Tensor, not {type(input).__name__}")
    if input.dim() not in (3, 4):
        raise RuntimeError(
            f"Expected 3D (unbatched) or 4D (batched) input to {function}, but got input of size: {list(input.shape)}"
        )


def check_steps(stride: Pair, padding: Pair, dilation: Pair) -> None:
    """Strides and dilations are positive, paddings are not negative."""
    if min(stride) <= 0:
        raise RuntimeError("non-positive stride is not supported")
    if min(dilation) <= 0:
        raise RuntimeError("non-positive dilation is not supported")
    if min(padding) < 0:
        raise RuntimeError("negative padding is not supported")


def conv_transpose2d_sizes(
    small: Pair, kernel: Pair, stride: Pair, padding: Pair | str, output_padding: Pair, dilation: Pair
) -> tuple[Pair, Pair]:
    """(padding before, output size) of the transposed convolution.

    ``o = (i - 1) * stride - 2 * padding + dilation * (k - 1) + output_padding + 1`` (torch.nn.ConvTranspose2d), or
    ``o = i * stride`` for ``padding="same"``, which crops ``floor(t / 2)`` before the first pixel,
    ``t = max(dilation * (k - 1) + 1 - stride, 0)`` (TensorFlow's SAME).

    Raises:
        RuntimeError: torch's words for illegal output_padding; an output with a negative size.
        ValueError: a padding string other than "same"; output_padding together with it.
    """
    span = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    if isinstance(padding, str):
        _check_same(padding, ("same",))
        check_steps(stride, (0, 0), dilation)
        if any(output_padding):
            raise ValueError('output_padding must be 0 with padding="same": the output is exactly input * stride')
        before = tuple(max(e - s, 0) // 2 for e, s in zip(span, stride, strict=True))
        return before, tuple(i * s for i, s in zip(small, stride, strict=True))
    check_steps(stride, padding, dilation)
    if min(output_padding) < 0:
        raise RuntimeError("negative output_padding is not supported")
    if any(op >= max(s, d) for op, s, d in zip(output_padding, stride, dilation, strict=True)):
        raise RuntimeError(
            "output padding must be smaller than either stride or dilation, but got "
            f"output_padding_height: {output_padding[0]} output_padding_width: {output_padding[1]} "
            f"stride_height: {stride[0]} stride_width: {stride[1]} "
            f"dilation_height: {dilation[0]} dilation_width: {dilation[1]}"
        )
    big = tuple(
        (i - 1) * s - 2 * p + e + op
        for i, s, p, e, op in zip(small, stride, padding, span, output_padding, strict=True)
    )
    if min(big) < 0:
        raise RuntimeError(
            f"Given input size per channel: ({small[0]} x {small[1]}). Calculated output size per channel: "
            f"({big[0]} x {big[1]}). Output size is too small: padding={padding} crops more than there is"
        )
    return padding, big


def conv2d_sizes(big: Pair, kernel: Pair, stride: Pair, padding: Pair | str, dilation: Pair) -> tuple[Pair, Pair]:
    """(padding before, output size) of the strided convolution.

    ``o = floor((i + 2 * padding - dilation * (k - 1) - 1) / stride) + 1`` (torch.nn.Conv2d), or ``o = ceil(i /
    stride)`` for ``padding="same"`` with ``floor(t / 2)`` zeros before, ``t = max((o - 1) * stride + dilation * (k -
    1) + 1 - i, 0)`` (TensorFlow's SAME).

    Raises:
        RuntimeError: torch's words when the kernel is larger than the padded input.
        ValueError: a padding string other than "same" or "valid".
    """
    span = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    if isinstance(padding, str):
        _check_same(padding, ("same", "valid"))
        check_steps(stride, (0, 0), dilation)
        if padding == "same":
            small = tuple(-(-i // s) for i, s in zip(big, stride, strict=True))
            before = tuple(
                max((o - 1) * s + e - i, 0) // 2 for o, s, e, i in zip(small, stride, span, big, strict=True)
            )
            return before, small
        padding = (0, 0)
    check_steps(stride, padding, dilation)
    padded = tuple(i + 2 * p for i, p in zip(big, padding, strict=True))
    if any(i < e for i, e in zip(padded, span, strict=True)):
        raise RuntimeError(
            f"Calculated padded input size per channel: ({padded[0]} x {padded[1]}). "
            f"Kernel size: ({span[0]} x {span[1]}). Kernel size can't be greater than actual input size"
        )
    return padding, tuple((i - e) // s + 1 for i, e, s in zip(padded, span, stride, strict=True))


def _check_same(padding: str, allowed: tuple[str, ...]) -> None:
    if padding not in allowed:
        names = " or ".join(map(repr, allowed))
        raise ValueError(f"Invalid padding string: {padding!r}, expected {names}, an int or a pair of ints")


def meetings(small: int, big: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """How many pairs of a pixel and a tap lie inside the image, along one axis."""
    count = 0
    for k in range(kernel):
        shift = k * dilation - padding  # pixel i meets i * stride + shift
        count += max(min(small - 1, (big - 1 - shift) // stride) - max(0, -(shift // stride)) + 1, 0)
    return count


def output_memory_format(input: torch.Tensor, weight: torch.Tensor) -> torch.memory_format:
    """torch's rule: channels_last when either operand is, contiguous otherwise."""
    for tensor in (input, weight):
        if _like_channels_last(tensor):
            return torch.channels_last
    return torch.contiguous_format


def _like_channels_last(tensor: torch.Tensor) -> bool:
    if tensor.stride(3) < tensor.stride(1):  # the usual answer, in a tenth of the time of torch's Python
        return False
    return torch._prims_common.suggest_memory_format(tensor) == torch.channels_last
