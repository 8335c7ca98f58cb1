"""The public contract: one function per op, with ``torch.nn.functional``'s signatures and semantics.

Every function checks its arguments before anything is launched, in torch's own words where torch has them, and calls an
explicit ``torch.autograd.Function``; small float32 calls on a CPU, in eager mode, go to torch's own ops instead. Dtypes
float64, float32, float16 and bfloat16; any strides. Accumulation is in float32 (float64 for float64). Under
``torch.autocast`` convolutions run in the autocast dtype, the loss in float32, and batch norm leaves its input as it
is, which is torch's policy. ``torch.onnx.export`` sees torch's own ops, as ONNX knows no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from fastgan.ops.batch_norm_act import autograd as _bn
from fastgan.ops.batch_norm_act import checks as _bn_checks
from fastgan.ops.batch_norm_act import small as _bn_small
from fastgan.ops.batch_norm_act import sync as _bn_sync
from fastgan.ops.bce_with_logits import autograd as _bce
from fastgan.ops.bce_with_logits import checks as _bce_checks
from fastgan.ops.bce_with_logits import small as _bce_small
from fastgan.ops.common import activation as _activation
from fastgan.ops.common.dtypes import autocast_low, autocast_wide, round_to
from fastgan.ops.common.overrides import overridable
from fastgan.ops.conv_transpose2d import activated as _conv_act
from fastgan.ops.conv_transpose2d import autograd as _conv
from fastgan.ops.conv_transpose2d import geometry as _geometry
from fastgan.ops.conv_transpose2d import reference as _conv_reference
from fastgan.ops.conv_transpose2d import small as _conv_small

__all__ = ["batch_norm_act", "binary_cross_entropy_with_logits", "conv2d", "conv_transpose2d", "sync_batch_norm_act"]

Ints = int | Sequence[int]


def _for_onnx() -> bool:
    """Whether ``torch.onnx.export`` is at work. torch's own question takes microseconds, so it is asked last."""
    return (torch.compiler.is_compiling() or torch.jit.is_tracing()) and torch.onnx.is_in_onnx_export()


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
    geometry, size = _geometry.conv_transpose2d_geometry(
        input.shape,
        weight.shape,
        None if bias is None else bias.shape,
        _geometry.pair("stride", stride, name),
        padding if isinstance(padding, str) else _geometry.pair("padding", padding, name),
        _geometry.pair("output_padding", output_padding, name),
        _geometry.whole("groups", groups, name),
        _geometry.pair("dilation", dilation, name),
    )
    act = _activation.parse_after_convolution(activation, negative_slope)
    by_torch = _conv_small.left_to_torch(name, input, weight, bias, size, geometry, options, activation, negative_slope)
    if by_torch is not None:
        return by_torch
    if _for_onnx():
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
    geometry, size = _geometry.conv2d_geometry(
        input.shape,
        weight.shape,
        None if bias is None else bias.shape,
        _geometry.pair("stride", stride, name),
        padding if isinstance(padding, str) else _geometry.pair("padding", padding, name),
        _geometry.whole("groups", groups, name),
        _geometry.pair("dilation", dilation, name),
    )
    act = _activation.parse_after_convolution(activation, negative_slope)
    by_torch = _conv_small.left_to_torch(name, input, weight, bias, size, geometry, options, activation, negative_slope)
    if by_torch is not None:
        return by_torch
    if _for_onnx():
        return _activation.apply(_conv_reference.conv2d(input, weight, bias, size, geometry), act, negative_slope)
    if act == _activation.Activation.NONE:
        return _conv.conv2d(input, weight, bias, size, geometry)
    return _conv_act.conv2d(input, weight, bias, size, geometry, act, negative_slope)


@overridable
def batch_norm_act(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "relu",
    negative_slope: float = 0.01,
) -> torch.Tensor:
    """Batch norm and an activation in one op: :func:`torch.nn.functional.batch_norm`, then ``activation``.

    ``y = act((x - mean) / sqrt(var + eps) * weight + bias)`` per channel, by batch statistics (biased variance) in
    training and by the running ones otherwise (Ioffe & Szegedy 2015, algorithms 1 and 2). Backward saves the input and
    two vectors, no activation-sized tensor.

    Args:
        input: ``[N, C, ...]``, at least 2 dimensions.
        running_mean, running_var: ``[C]``; updated in place when ``training`` (the variance unbiased), needed
        otherwise. weight, bias: ``[C]`` or None (1 and 0); the input's dtype, or float32 with a float16 or bfloat16
        input. training: use batch statistics.
        momentum: share of the new statistics in the running ones.
        eps: added to the variance.
        activation: "relu", "leaky_relu" or "none". ReLU keeps NaN; at 0 its slope is 0 and LeakyReLU's the negative
        one. negative_slope: slope of "leaky_relu" for inputs <= 0.

    Returns:
        A tensor of the input's shape, dtype and strides (as ``torch.empty_like`` gives them).

    Raises:
        ValueError: one value per channel in training; unknown activation; no running statistics in eval mode.
        RuntimeError: a vector that does not have C elements, or sits on another device.
        TypeError: a dtype that does not fit.

    Gradient order: any; second and higher orders run through torch's ops (eager only).

    Example:
        >>> import torch
        >>> batch_norm_act(torch.tensor([[1.0], [3.0]]), None, None, training=True, eps=0.0).tolist()
        [[0.0], [1.0]]
    """
    act = _activation.parse(activation)
    _bn_checks.check(input, running_mean, running_var, weight, bias, training, momentum, eps)
    if _bn_small.left_to_torch(input, running_mean, running_var, weight, bias):
        return _bn_small.batch_norm_act(
            input, running_mean, running_var, weight, bias, training, momentum, eps, act, negative_slope
        )
    if _for_onnx():
        output = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
        return _activation.apply(output, act, negative_slope)
    if training:
        return _bn.train(input, weight, bias, running_mean, running_var, momentum, eps, act, negative_slope)
    assert running_mean is not None and running_var is not None  # checked above
    return _bn.evaluate(input, weight, bias, running_mean, running_var, eps, act, negative_slope)


@overridable
def sync_batch_norm_act(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    momentum: float = 0.1,
    eps: float = 1e-5,
    activation: str = "relu",
    negative_slope: float = 0.01,
    process_group: Any = None,
) -> torch.Tensor:
    """:func:`batch_norm_act` in training, by the statistics of the batches of all ranks of ``process_group`` together.

    The ranks' counts, means and variances are merged by Chan's formula (Chan, Golub & LeVeque 1983); batches may differ
    in size and may be empty. One collective forward and one backward, in which every rank of the group takes part. With
    no process group initialised, or one rank, it is :func:`batch_norm_act`.

    Args:
        input, running_mean, running_var, weight, bias, momentum, eps, activation, negative_slope: as in
            :func:`batch_norm_act`; vectors are the same on all ranks.
        process_group: a group of ``torch.distributed``; None means all ranks.

    Returns:
        A tensor of the input's shape, dtype and strides. The gradient of the input is that of the sum of the ranks'
        losses; those of weight and bias are this rank's part of it, which DistributedDataParallel adds up.

    Raises:
        ValueError: one value per channel in the whole group; unknown activation.
        RuntimeError: a vector that does not have C elements, or sits on another device.
        TypeError: a dtype that does not fit.

    Gradient order: any, the same on all ranks; second and higher orders run through torch's ops (eager only).

    Example:
        >>> import torch
        >>> sync_batch_norm_act(torch.tensor([[1.0], [3.0]]), None, None, eps=0.0).tolist()
        [[0.0], [1.0]]
    """
    group = _bn_sync.world(process_group)
    if group is None:
        return batch_norm_act(
            input, running_mean, running_var, weight, bias, True, momentum, eps, activation, negative_slope
        )
    act = _activation.parse(activation)
    _bn_checks.check_tensors(input, running_mean, running_var, weight, bias, momentum, eps)
    _bn_checks.check_pair(running_mean, running_var)
    return _bn_sync.SyncBatchNormActTrain.apply(
        input, weight, bias, running_mean, running_var, momentum, eps, act, negative_slope, group
    )[0]


@overridable
def binary_cross_entropy_with_logits(
    input: torch.Tensor,
    target: torch.Tensor | float,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Sigmoid and binary cross entropy in one op, as :func:`torch.nn.functional.binary_cross_entropy_with_logits`.

    ``(1 - t) * x + max(-x, 0) + log1p(exp(-|x|))`` per element; value and gradient in one pass over the data. At
    infinite logits the result is torch's: NaN where ``0 * inf`` occurs.

    Args:
        input: logits, any shape.
        target: probabilities of the input's shape, or a plain number that stands for a tensor full of it (none is
        made):
            1.0 for real, 0.0 for fake, 0.9 for smoothed labels.
        weight: rescales the loss of each element; broadcasts to the input's shape.
        size_average, reduce: deprecated in torch; they override ``reduction`` as there.
        reduction: "none", "mean" or "sum".
        pos_weight: weight of the positive part, broadcasts to the input's shape.

    Returns:
        A 0-d tensor, or one of the input's shape for ``"none"``; its dtype is the target's (the input's for a number).

    Raises:
        ValueError: target and input differ in shape (nothing is broadcast silently); unknown reduction.
        RuntimeError: weight or pos_weight do not broadcast, sit on another device, or require a gradient.
        TypeError: a dtype that is not floating, or a target that is neither tensor nor number.

    Gradient order: any, with respect to input and target; second and higher orders run through torch's ops (eager
    only).

    Example:
        >>> import torch
        >>> round(binary_cross_entropy_with_logits(torch.zeros(4), 1.0).item(), 4)
        0.6931
    """
    kind = _bce_checks.parse_reduction(size_average, reduce, reduction)
    by_torch = _bce_small.by_torch(input, target, weight, pos_weight, kind)
    if by_torch is not None:
        return by_torch
    if isinstance(target, float):
        target = float.fromhex(target.hex())  # the same number, but never a compiler's symbol of one
    _bce_checks.check(input, target, weight, pos_weight)
    input, target, weight, pos_weight = autocast_wide(input, target, weight, pos_weight)
    if _for_onnx():
        labels = target if isinstance(target, torch.Tensor) else torch.full_like(input, float(target))
        name = ("none", "mean", "sum")[kind]
        return F.binary_cross_entropy_with_logits(input, labels, weight, reduction=name, pos_weight=pos_weight)
    if isinstance(target, torch.Tensor):
        return _bce.bce_with_logits(input, target, 0.0, weight, pos_weight, kind)
    return _bce.bce_with_logits(input, None, round_to(input.dtype, float(target)), weight, pos_weight, kind)
