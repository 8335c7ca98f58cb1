"""The transposed convolution and its adjoint, the strided one."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastgan.functional.onnx import for_onnx
from fastgan.ops.common import activation as _activation
from fastgan.ops.common.dtypes import autocast_low
from fastgan.ops.common.overrides import overridable
from fastgan.ops.conv_transpose2d import activated as _conv_act
from fastgan.ops.conv_transpose2d import autograd as _conv
from fastgan.ops.conv_transpose2d import geometry as _geometry
from fastgan.ops.conv_transpose2d import reference as _conv_reference
from fastgan.ops.conv_transpose2d import small as _conv_small

Ints = int | Sequence[int]
#: stride, padding, output_padding, groups, dilation
Options = tuple[Ints, Ints | str, Ints, int, Ints]


@overridable
def conv_transpose2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
    *,
    activation: str = "none",
    negative_slope: float = 0.01,
) -> torch.Tensor:
    """2-D transposed convolution, as :func:`torch.nn.functional.conv_transpose2d`, and TensorFlow's ``"same"``.

    Every input pixel stamps ``pixel * kernel`` onto the output at the stride; overlaps add; ``padding`` crops the
    border (Dumoulin & Visin 2016, "A guide to convolution arithmetic", chapter 4).

    Args:
        input: ``[N, C_in, H, W]`` or ``[C_in, H, W]``.
        weight: ``[C_in, C_out / groups, kH, kW]``.
        bias: ``[C_out]`` or None.
        stride, padding, output_padding, dilation: one int or (height, width). ``padding="same"``: the output is exactly
            ``input * stride``; ``floor(t / 2)`` rows are cropped before the first one, the rest after,
            ``t = max(dilation * (k - 1) + 1 - stride, 0)``; a tail that no tap reaches (k < stride) is the bias.
        groups: blocks of channels that do not mix; divides C_in.
        activation: "none", "relu", "leaky_relu" or "tanh" of the result, in the same op; backward needs no other tensor
            of its size than the output.
        negative_slope: slope of "leaky_relu" for values <= 0; at least 0.

    Returns:
        ``[N, C_out, H_out, W_out]`` of the input's dtype,
        ``H_out = (H - 1) * stride - 2 * padding + dilation * (kH - 1) + output_padding + 1``; channels_last when the
        input or the weight is.

    Raises:
        RuntimeError: shapes, dtypes, devices, stride, padding, output_padding, dilation or groups do not fit.
        ValueError: unknown padding string; ``output_padding`` together with ``"same"``; unknown activation; a negative
            slope of "leaky_relu".
        TypeError: an argument of the wrong type, or a dtype that is not floating.

    Gradient order: any.

    Example:
        >>> import torch
        >>> conv_transpose2d(torch.ones(1, 8, 4, 4), torch.ones(8, 3, 4, 4), stride=2, padding=1).shape
        torch.Size([1, 3, 8, 8])
    """
    name, options = "conv_transpose2d", (stride, padding, output_padding, groups, dilation)
    by_torch = _conv_small.known(name, input, weight, bias, options, activation, negative_slope)
    if by_torch is not None:
        return by_torch
    _geometry.check_rank(name, input)
    if input.dim() == 3:
        return conv_transpose2d(
            input.unsqueeze(0),
            weight,
            bias,
            stride,
            padding,
            output_padding,
            groups,
            dilation,
            activation=activation,
            negative_slope=negative_slope,
        ).squeeze(0)
    input, weight, bias = autocast_low(input, weight, bias)
    _geometry.check_tensors(name, input, weight, bias)
    geometry, size = sizes(name, input.shape, weight, bias, options)
    act = _activation.parse_after_convolution(activation, negative_slope)
    by_torch = _conv_small.left_to_torch(name, input, weight, bias, size, geometry, options, activation, negative_slope)
    if by_torch is not None:
        return by_torch
    if for_onnx():
        output = _conv_reference.conv_transpose2d(input, weight, bias, size, geometry)
        return _activation.apply(output, act, negative_slope)
    if act == _activation.Activation.NONE:
        return _conv.conv_transpose2d(input, weight, bias, size, geometry)
    return _conv_act.conv_transpose2d(input, weight, bias, size, geometry, act, negative_slope)


@overridable
def conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    *,
    activation: str = "none",
    negative_slope: float = 0.01,
) -> torch.Tensor:
    """2-D convolution, as :func:`torch.nn.functional.conv2d`, with ``padding="same"`` for any stride (TensorFlow's).

    The adjoint of :func:`conv_transpose2d`: the same weight maps back.

    Args:
        input: ``[N, C_in, H, W]`` or ``[C_in, H, W]``.
        weight: ``[C_out, C_in / groups, kH, kW]``.
        bias: ``[C_out]`` or None.
        stride, padding, dilation: one int or (height, width). ``padding="same"``: the output is ``ceil(input /
        stride)``;
            of ``t = max((H_out - 1) * stride + dilation * (kH - 1) + 1 - H, 0)`` rows of zeros ``floor(t / 2)`` come
            before the first row and the rest after the last. ``padding="valid"`` is 0.
        groups: blocks of channels that do not mix; divides C_in and C_out.
        activation, negative_slope: as in :func:`conv_transpose2d`.

    Returns:
        ``[N, C_out, H_out, W_out]`` of the input's dtype,
        ``H_out = floor((H + 2 * padding - dilation * (kH - 1) - 1) / stride) + 1``; channels_last when the input or the
        weight is.

    Raises:
        RuntimeError: shapes, dtypes, devices, stride, padding, dilation or groups do not fit.
        ValueError: unknown padding string; unknown activation; a negative slope of "leaky_relu".
        TypeError: an argument of the wrong type, or a dtype that is not floating.

    Gradient order: any.

    Example:
        >>> import torch
        >>> conv2d(torch.ones(1, 3, 7, 7), torch.ones(8, 3, 4, 4), stride=2, padding="same").shape
        torch.Size([1, 8, 4, 4])
    """
    name, options = "conv2d", (stride, padding, dilation, groups)
    by_torch = _conv_small.known(name, input, weight, bias, options, activation, negative_slope)
    if by_torch is not None:
        return by_torch
    _geometry.check_rank(name, input)
    if input.dim() == 3:
        return conv2d(
            input.unsqueeze(0),
            weight,
            bias,
            stride,
            padding,
            dilation,
            groups,
            activation=activation,
            negative_slope=negative_slope,
        ).squeeze(0)
    input, weight, bias = autocast_low(input, weight, bias)
    _geometry.check_tensors(name, input, weight, bias)
    geometry, size = sizes(name, input.shape, weight, bias, (stride, padding, 0, groups, dilation))
    act = _activation.parse_after_convolution(activation, negative_slope)
    by_torch = _conv_small.left_to_torch(name, input, weight, bias, size, geometry, options, activation, negative_slope)
    if by_torch is not None:
        return by_torch
    if for_onnx():
        return _activation.apply(_conv_reference.conv2d(input, weight, bias, size, geometry), act, negative_slope)
    if act == _activation.Activation.NONE:
        return _conv.conv2d(input, weight, bias, size, geometry)
    return _conv_act.conv2d(input, weight, bias, size, geometry, act, negative_slope)


def sizes(
    name: str, shape: torch.Size, weight: torch.Tensor, bias: torch.Tensor | None, options: Options
) -> tuple[_geometry.Geometry, _geometry.Pair]:
    """(the geometry, the output's size) of "conv_transpose2d" or "conv2d" of an input of that shape; the options and
    shapes are checked."""
    stride, padding, output_padding, groups, dilation = options
    shapes = shape, weight.shape, None if bias is None else bias.shape
    step = _geometry.pair("stride", stride, name)
    before = padding if isinstance(padding, str) else _geometry.pair("padding", padding, name)
    after = (0, 0) if name == "conv2d" else _geometry.pair("output_padding", output_padding, name)
    whole, gaps = _geometry.whole("groups", groups, name), _geometry.pair("dilation", dilation, name)
    if name == "conv2d":
        return _geometry.conv2d_geometry(*shapes, step, before, whole, gaps)
    return _geometry.conv_transpose2d_geometry(*shapes, step, before, after, whole, gaps)
