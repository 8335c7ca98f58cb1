"""The three maps by the compiled CPU kernels (csrc/conv_transpose2d): what they take, and when they pay."""

from __future__ import annotations

from typing import Any

import torch

from fastgan.native import native_reason
from fastgan.ops.common.activation import Activation
from fastgan.ops.conv_transpose2d import selection
from fastgan.ops.conv_transpose2d.geometry import Pair, output_memory_format

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Floats of scratch memory, 4 MB a thread in all: packed weights of one panel of output channels, one image of a side.
_MOST_PANEL, _MOST_IMAGE, _PANEL, _ROWS = 1 << 20, 1 << 19, 32, 8
_native = torch.ops.fastgan_native


def conv_transpose2d(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, output_size: Pair, *geometry: Any
) -> torch.Tensor:
    """Transposed convolution of a small image into a big one; see reference.py."""
    return _image(input, weight, bias, weight.shape[1] * geometry[-1], output_size, True, geometry)


def conv2d(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, output_size: Pair, *geometry: Any
) -> torch.Tensor:
    """Strided convolution of a big image into a small one; see reference.py."""
    return _image(input, weight, bias, weight.shape[0], output_size, False, geometry)


def conv_transpose2d_act(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, output_size: Pair, *rest: Any
) -> torch.Tensor:
    """:func:`conv_transpose2d`, then an activation."""
    *geometry, activation, slope = rest
    channels = weight.shape[1] * geometry[-1]
    return _image(input, weight, bias, channels, output_size, True, tuple(geometry), activation, slope)


def conv2d_act(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, output_size: Pair, *rest: Any
) -> torch.Tensor:
    """:func:`conv2d`, then an activation."""
    *geometry, activation, slope = rest
    return _image(input, weight, bias, weight.shape[0], output_size, False, tuple(geometry), activation, slope)


def _image(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    channels: int,
    output_size: Pair,
    transposed: bool,
    geometry: tuple[Any, ...],
    activation: int = Activation.NONE,
    slope: float = 0.0,
) -> torch.Tensor:
    shape = (input.shape[0], channels, *output_size)
    output = torch.empty(shape, dtype=input.dtype, memory_format=output_memory_format(input, weight))
    start = None if bias is None else bias.float().contiguous()
    _native.conv_image(input, weight, start, output, transposed, *geometry, int(activation), slope)
    return output


def conv2d_weight(small: torch.Tensor, big: torch.Tensor, kernel_size: Pair, *geometry: Any) -> torch.Tensor:
    """The weight gradient of both; see reference.py."""
    shape = (small.shape[1], big.shape[1] // geometry[-1], *kernel_size)
    weight = torch.empty(shape, dtype=small.dtype, memory_format=output_memory_format(small, big))
    _native.conv_weight(small, big, weight, *geometry)
    return weight


def image_supports(
    input: torch.Tensor, weight: torch.Tensor, bias: Any, output_size: Pair, *geometry: Any
) -> str | None:
    """The reason why the image maps cannot run on these arguments, or None."""
    channels = input.shape[1] // geometry[-1]
    if channels * weight.shape[2] * weight.shape[3] * _PANEL > _MOST_PANEL:
        return f"the native convolutions take at most {_MOST_PANEL // _PANEL} input channels times taps"
    return _reason(input, weight) or _too_big(input.shape[2:], channels) or _too_big(output_size, _PANEL)


def weight_supports(small: torch.Tensor, big: torch.Tensor, kernel_size: Pair, *geometry: Any) -> str | None:
    """The reason why the weight gradient cannot run on these arguments, or None."""
    if kernel_size[0] * kernel_size[1] * _PANEL * _ROWS > _MOST_PANEL:
        return f"the native weight gradient takes at most {_MOST_PANEL // (_PANEL * _ROWS)} taps"
    return (
        _reason(small, big)
        or _too_big(small.shape[2:], small.shape[1] // geometry[-1])
        or _too_big(big.shape[2:], _PANEL)
    )


def _too_big(size: Any, channels: int) -> str | None:
    if size[0] * size[1] * channels <= _MOST_IMAGE:
        return None
    return f"the native convolutions hold an image in scratch memory: at most {_MOST_IMAGE} values"


def _reason(first: torch.Tensor, second: torch.Tensor) -> str | None:
    if first.device.type != "cpu":
        return "the native convolutions exist for the CPU alone"
    if first.dtype not in _DTYPES or second.dtype != first.dtype:
        return f"the native convolutions take float32, bfloat16 and float16, got {first.dtype} and {second.dtype}"
    return native_reason("cpu")


def pays(op: str, *args: Any) -> bool:
    """Whether the compiled kernels are expected to be faster than torch."""
    return selection.pays(numbers(op, *args))


def numbers(op: str, first: torch.Tensor, second: torch.Tensor, *rest: Any) -> selection.Call:
    """The arguments of an op as the model of its time takes them."""
    *head, stride, padding, dilation, groups = rest
    size = tuple(head[-1])  # of the output, or the kernel's
    batch, channels, *image = first.shape
    wide = first.dtype is torch.float32
    inner = (wide and first.stride(1) == 1, wide and second.stride(1) == 1)
    steps = (tuple(stride), tuple(padding), tuple(dilation))
    if op == "conv2d_weight":
        _, others, *other = second.shape
        in_place = (*inner, inner[0] or inner[1])
        sizes = (channels // groups, others // groups, tuple(image), tuple(other), size)
    else:
        small, big, *kernel = second.shape
        output = inner[0] or inner[1]
        up = op == "conv_transpose2d"
        in_place = (inner[0], output, inner[1]) if up else (output, inner[0], inner[1])
        sizes = (small // groups, big, *((tuple(image), size) if up else (size, tuple(image))), tuple(kernel))
    return selection.Call(op, batch, groups, *sizes, *steps, in_place)
