"""Launches the Triton kernels of this slice: which kernel, with which tiles, on which grid."""

from __future__ import annotations

import math

import torch
import triton

from fastgan.ops.common import activation as activations
from fastgan.ops.common.activation import Activation
from fastgan.ops.common.dtypes import accumulate_type, is_half
from fastgan.ops.common.triton_runtime import launch_device
from fastgan.ops.conv_transpose2d import triton_columns as columns
from fastgan.ops.conv_transpose2d import triton_kernels as kernels
from fastgan.ops.conv_transpose2d import triton_tiles as tiles
from fastgan.ops.conv_transpose2d.geometry import Geometry, Pair, output_memory_format
from fastgan.ops.conv_transpose2d.triton_arguments import (
    Behind,
    End,
    Fold,
    add_splits,
    arithmetic,
    beside_operand,
    by_channel,
    channels_packed,
    choose_tile,
    close_splits,
    constants,
    dense,
    empty,
    few_channels,
    fold_tile,
    fused_activation,
    options,
    pairs_inside,
    phases,
    rows_of_programs,
    split_output,
)

_OUTSIDE = 1.15  # products with taps outside the image too, over those inside, at most


def conv_transpose2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    output_size: Pair,
    geometry: Geometry,
    activation: int = Activation.NONE,
    negative_slope: float = 0.0,
    behind: Behind = None,
    beside: torch.Tensor | None = None,
    end: End | None = None,
) -> torch.Tensor:
    """Small [N, C_in, h, w] -> activation(big [N, C_out, H, W]); all phases in one launch. The activation is that of
    ``behind`` or ``end`` where one of them is given, and the output has none. Tensors in ``behind`` have the strides of
    the input. ``beside``, only with an ``end`` and without groups: the channels of the weight after the input's."""
    stride, groups = geometry.stride, geometry.groups
    batch, channels, h, w = input.shape
    cs, cb = channels // groups, weight.shape[1]
    output = empty((batch, cb * groups, *output_size), input, output_memory_format(input, weight))
    if output.numel() == 0:
        return output
    act, later = fused_activation(input, activation, behind)
    rows, cols = (-(-size // step) for size, step in zip(output_size, stride, strict=True))
    taps = [-(-k // s) for k, s in zip(weight.shape[2:], stride, strict=True)]
    fold = None if end is not None or by_channel(behind) else fold_tile(input, weight, geometry, output_size)
    if fold is not None:
        _columns_up(input, behind, weight, bias, output, geometry, fold, act, negative_slope)
        return activations.apply_(output, later, negative_slope)
    programs = math.prod(stride) * groups
    mean = pairs_inside((h, w), output_size, weight.shape[2:], geometry) / math.prod(output_size)
    flags = (channels_packed(input, weight), int(behind is not None), False, end is not None, beside is not None)
    work = tiles.Work(programs, batch * rows * cols, cb, math.prod(taps) * cs, mean * cs, cs, *flags)
    tile, there = choose_tile(input, work), () if beside is None else (beside,)
    m_tiles, n_tiles = triton.cdiv(batch * rows * cols, tile.block_m), triton.cdiv(cb, tile.block_n)
    with launch_device(input):
        split, bias_here = split_output(output, bias, tile.splits)
        told = end.told(math.prod(stride) * m_tiles, output) if end is not None and tile.splits == 1 else None
        kernels.conv_transpose2d_kernel[(programs * n_tiles * m_tiles * tile.splits,)](
            input, behind, beside_operand(beside), weight, bias_here, split, told,
            float(negative_slope), batch, cs, cb, h, w, *output_size, rows, cols, m_tiles, n_tiles, groups, tile.splits,
            *input.stride(), *weight.stride(), output.numel(), *output.stride(),
            **constants(geometry, weight.shape[2:]), **phases(geometry),
            ACTIVATION=act if tile.splits == 1 or behind is not None else Activation.NONE,
            **arithmetic(geometry, weight.shape[2:], input, weight, split, *there), **options(tile),
        )  # fmt: skip
        _finish(split, bias, output, behind, end, act, negative_slope, tile.splits)
    return activations.apply_(output, later, negative_slope)


def conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    output_size: Pair,
    geometry: Geometry,
    activation: int = Activation.NONE,
    negative_slope: float = 0.0,
    behind: Behind = None,
    beside: torch.Tensor | None = None,
    end: End | None = None,
) -> torch.Tensor:
    """Big [N, C_in, H, W] -> activation(small [N, C_out, h, w]); the last three as above, ``behind`` by channel or
    None."""
    groups = geometry.groups
    batch, channels, big_h, big_w = input.shape
    cs, cb = weight.shape[0] // groups, channels // groups
    output = empty((batch, cs * groups, *output_size), input, output_memory_format(input, weight))
    if output.numel() == 0:
        return output
    act, later = fused_activation(input, activation, behind)
    pixels, taps = batch * output_size[0] * output_size[1], weight.shape[2] * weight.shape[3]
    few = behind is None and end is None and few_channels(input, weight.shape, groups)
    inside = pairs_inside(output_size, (big_h, big_w), weight.shape[2:], geometry) / math.prod(output_size)
    mean, depth = (taps, cb * taps) if few else (inside, cb)
    flags = (channels_packed(input, weight), int(behind is not None), few, end is not None, beside is not None)
    work = tiles.Work(groups, pixels, cs, taps * cb, mean * cb, depth, *flags)
    tile, there = choose_tile(input, work), () if beside is None else (beside,)
    m_tiles, n_tiles = triton.cdiv(pixels, tile.block_m), triton.cdiv(cs, tile.block_n)
    with launch_device(input):
        if few:
            step = rows_of_programs(input, m_tiles, n_tiles)
            columns.conv2d_columns_kernel[(n_tiles * step,)](
                input, weight, dense(bias), output,
                float(negative_slope), batch, cs, *output_size, big_h, big_w, n_tiles, step,
                *input.stride(), *weight.stride(), *output.stride(),
                **constants(geometry, weight.shape[2:]), CB=cb, ACTIVATION=act,
                **arithmetic(geometry, weight.shape[2:], input, weight, output), **options(tile),
            )  # fmt: skip
            return activations.apply_(output, later, negative_slope)
        split, bias_here = split_output(output, bias, tile.splits)
        told = end.told(m_tiles, output) if end is not None and tile.splits == 1 else None
        kernels.conv2d_kernel[(groups * n_tiles * m_tiles * tile.splits,)](
            input, behind, beside_operand(beside), weight, bias_here, split, told,
            float(negative_slope), batch, cs, cb, *output_size, big_h, big_w, m_tiles, n_tiles, groups, tile.splits,
            *input.stride(), *weight.stride(), output.numel(), *output.stride(),
            **constants(geometry, weight.shape[2:]),
            ACTIVATION=act if tile.splits == 1 or behind is not None else Activation.NONE,
            **arithmetic(geometry, weight.shape[2:], input, weight, split, *there), **options(tile),
        )  # fmt: skip
        _finish(split, bias, output, behind, end, act, negative_slope, tile.splits)
    return activations.apply_(output, later, negative_slope)


def conv2d_weight(
    small: torch.Tensor,
    big: torch.Tensor,
    kernel_size: Pair,
    geometry: Geometry,
    activation: int = Activation.NONE,
    negative_slope: float = 0.0,
    small_behind: Behind = None,
    big_behind: Behind = None,
    sums: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Small [N, C_small, h, w] and big [N, C_big, H, W] -> ([C_small, C_big / groups, KH, KW], sums of the small
    image by channel where they are asked for and cost nothing). Tensors in ``small_behind`` and ``big_behind`` have the
    strides of these images; the activation is theirs."""
    groups = geometry.groups
    batch, _, h, w = small.shape
    cs, cb = small.shape[1] // groups, big.shape[1] // groups
    shape = (cs * groups, cb, *kernel_size)
    output = empty(shape, small, output_memory_format(small, big))
    if output.numel() == 0:
        return output, None
    pixels, taps = batch * h * w, kernel_size[0] * kernel_size[1]
    if pixels == 0 or big.numel() == 0:
        return output.zero_(), None
    met = pairs_inside((h, w), big.shape[2:], kernel_size, geometry)
    # where few taps lie outside the image all of them are columns of one product, and the small image is read once
    wide_pays = groups == 1 and is_half(small.dtype) and cb % 16 == 0 and _OUTSIDE * met >= taps * h * w
    few = few_channels(small, shape, groups) or wide_pays
    wide, programs = (taps * cb, 1) if few else (cb, taps * groups)
    mean = pixels if few else batch * met / taps
    packed, gathered = channels_packed(small, big), few and not wide_pays
    behind = (small_behind is not None) + (big_behind is not None)
    tile = choose_tile(small, tiles.Work(programs, cs, wide, pixels, mean, pixels, packed, behind, gathered))
    m_tiles, n_tiles = triton.cdiv(cs, tile.block_m), triton.cdiv(wide, tile.block_n)
    grid = (m_tiles * n_tiles * programs * tile.splits,)
    partial = None
    with launch_device(small):
        split, _ = split_output(output, None, tile.splits)
        strides = (*small.stride(), *big.stride(), output.numel(), *output.stride())
        numbers = arithmetic(geometry, kernel_size, small, big, split)
        shared = {**constants(geometry, kernel_size), **numbers, **options(tile)}
        slope = float(negative_slope)
        if few:
            per_split = triton.cdiv(triton.cdiv(pixels, tile.block_k), tile.splits) * tile.block_k
            # a column is free, and takes the sums with all their digits
            if sums and wide < n_tiles * tile.block_n and numbers["PRECISION"] == "ieee":
                dtype = accumulate_type(small.dtype)
                partial = empty((tile.splits, cs, 1, 1), small, torch.contiguous_format, dtype)
            columns.conv2d_weight_columns_kernel[grid](
                small, small_behind, big, big_behind, split, partial,
                slope, pixels, cs, h, w, *big.shape[2:], m_tiles, n_tiles, per_split, *strides,
                CB=cb, ACTIVATION=activation, **shared,
            )  # fmt: skip
        else:
            kernels.conv2d_weight_kernel[grid](
                small, small_behind, big, big_behind, split,
                slope, batch, cs, cb, h, w, *big.shape[2:], m_tiles, n_tiles, groups, tile.splits, *strides,
                ONE_PLACE=batch % tile.block_k == 0, ACTIVATION=activation, **shared,
            )  # fmt: skip
        add_splits(split, None, output, Activation.NONE, 0.0, tile.splits)
    return output, None if partial is None else partial.sum((0, 2, 3)).to(small.dtype)


def conv2d_act_backward(
    grad_output: torch.Tensor,
    output: torch.Tensor,
    input: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: bool,
    input_size: Pair,
    kernel_size: Pair,
    geometry: Geometry,
    activation: int,
    negative_slope: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of input, weight and bias of :func:`conv2d` with an activation, each empty unless the weight, the
    input or ``bias`` asks for it. The gradient before the activation is not stored, except for a bias gradient that
    the weight's kernel does not sum."""
    if grad_output.stride() != output.stride():
        grad_output = torch.empty_like(output).copy_(grad_output)
    if grad_output.stride() != output.stride():
        output = torch.empty_like(grad_output).copy_(output)
    grad_input, grad_weight, grad_bias = (grad_output.new_empty(0) for _ in range(3))
    behind = activation, negative_slope, (output,)
    sums = None
    if weight is not None:
        grad_input = conv_transpose2d(grad_output, weight, None, tuple(input_size), geometry, *behind)
    if input is not None:
        grad_weight, sums = conv2d_weight(grad_output, input, tuple(kernel_size), geometry, *behind, sums=bias)
    if bias and sums is None:
        before = activations.backward_by_output(grad_output, output, activation, negative_slope)
        sums = before.sum((0, 2, 3))
    return grad_input, grad_weight, grad_bias if sums is None else sums


def _finish(
    split: torch.Tensor,
    bias: torch.Tensor | None,
    output: torch.Tensor,
    behind: Behind,
    end: End | None,
    act: int,
    negative_slope: float,
    splits: int,
) -> None:
    """Add up the splits, if there are any."""
    if end is not None and splits > 1:
        close_splits(split, bias, output, end, act, negative_slope, splits)
    else:
        add_splits(split, bias, output, act if behind is None else Activation.NONE, negative_slope, splits)


def _columns_up(
    input: torch.Tensor,
    behind: Behind,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    output: torch.Tensor,
    geometry: Geometry,
    fold: Fold,
    act: int,
    negative_slope: float,
) -> None:
    """The transposed convolution of few output channels, folded inside tiles of small pixels."""
    stride, padding = geometry.stride, geometry.padding
    step = rows_of_programs(input, input.shape[0] * math.prod(fold.per_image), 1)
    with launch_device(input):
        columns.conv_transpose2d_columns_kernel[(step,)](
            input, behind, weight, dense(bias), output,
            float(negative_slope), input.shape[0], *weight.shape[:2], *input.shape[2:], *output.shape[2:],
            *fold.per_image, *fold.low, *fold.valid, step,
            *input.stride(), *weight.stride(), *output.stride(),
            STRIDE_H=stride[0], STRIDE_W=stride[1], PAD_H=padding[0], PAD_W=padding[1],
            KH=weight.shape[2], KW=weight.shape[3],
            TAPS_H=-(-weight.shape[2] // stride[0]), TAPS_W=-(-weight.shape[3] // stride[1]),
            ACTIVATION=act, **arithmetic(geometry, weight.shape[2:], input, weight, output),
            BLOCK_H=fold.block[0], BLOCK_W=fold.block[1], BLOCK_C=tiles.power_of_two(weight.shape[1]),
            BLOCK_K=tiles.covering(weight.shape[0], 64 if is_half(input.dtype) else 16), num_warps=8, num_stages=1,
        )  # fmt: skip
