"""Launches the Triton kernels of batch norm + activation: allocation, the [rows, C] view of tensors, tiles, grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl

from fastgan.ops.batch_norm_act import reference
from fastgan.ops.batch_norm_act import triton_kernels as kernels
from fastgan.ops.common.dtypes import accumulate_type
from fastgan.ops.common.triton_runtime import cdiv, launch_device, power_of_two, processors

TILE = 2048  # elements of a tile: 16 per thread with 4 warps
WIDEST = 64  # channels of an NHWC tile: 128 contiguous bytes of halves
FINISH_TILE = 1024  # elements of a tile of partial results
FINISH_WIDEST = 256
PROGRAMS_PER_SM = 8
MAX_SPLITS = 1024  # one program of the finishing kernel sees all splits of its channels at once
MAX_INT32_ROWS = 2**30  # leaves room for the overhang of the last tile


@dataclass(frozen=True)
class Rows:
    """All dimensions but the channels, merged to at most three for several tensors at once.

    Attributes:
        count: number of rows.
        middle, inner: sizes of the last two coordinates (the first one's is ``count / (middle * inner)``).
        strides: per tensor the strides of the three coordinates and of the channels.
    """

    count: int
    middle: int
    inner: int
    strides: tuple[tuple[int, int, int, int], ...]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """What kernels take after the number of channels."""
        return self.count, self.middle, self.inner

    @property
    def index(self) -> tl.dtype:
        """The integer type of row numbers."""
        return tl.int32 if self.count <= MAX_INT32_ROWS else tl.int64


def merge_rows(tensors: Sequence[torch.Tensor]) -> Rows | None:
    """The [rows, C] view of tensors of one shape, or None if they need more than three row coordinates."""
    first = tensors[0]
    dims = [d for d in range(first.dim()) if d != 1 and first.shape[d] != 1]
    dims.sort(key=first.stride, reverse=True)  # any order of rows will do; this one merges most and walks forwards
    merged: list[tuple[int, list[int]]] = []
    for d in dims:
        size, own = first.shape[d], [tensor.stride(d) for tensor in tensors]
        if merged and all(before == size * stride for before, stride in zip(merged[-1][1], own, strict=True)):
            merged[-1] = (merged[-1][0] * size, own)
        else:
            merged.append((size, own))
    if len(merged) > 3:
        return None
    unit = (1, [0] * len(tensors))
    # one coordinate is the outer one and two are outer and inner: a kernel's division by a size of 1 costs nothing
    outer, middle, inner = {0: [unit] * 3, 1: [*merged, unit, unit], 2: [*merged[:1], unit, *merged[1:]]}.get(
        len(merged), merged
    )
    strides = tuple((outer[1][i], middle[1][i], inner[1][i], tensor.stride(1)) for i, tensor in enumerate(tensors))
    return Rows(outer[0] * middle[0] * inner[0], middle[0], inner[0], strides)


def _rows(inputs: Sequence[torch.Tensor], output: torch.Tensor | None) -> tuple[Rows, Sequence[torch.Tensor]]:
    """The [rows, C] view of the inputs (first the one that sets the layout) and the output, and the inputs it is valid
    for: dense copies where the strides need more than three row coordinates (rank 5 and up, sliced everywhere)."""
    outputs = [] if output is None else [output]
    rows = merge_rows([*inputs, *outputs])
    if rows is None:
        inputs = [torch.empty_like(inputs[0], dtype=tensor.dtype).copy_(tensor) for tensor in inputs]
        rows = merge_rows([*inputs, *outputs])
        assert rows is not None, "a dense layout has at most one row coordinate on either side of the channels"
    return rows, inputs


def tile_shape(rows: Rows, channels: int) -> tuple[int, int]:
    """(BLOCK_R, BLOCK_C) by the first tensor's strides: wide where the channels are the closer neighbours."""
    row_stride = next(s for s, n in zip(rows.strides[0][2::-1], (rows.inner, rows.middle, 0), strict=True) if n != 1)
    height, width = power_of_two(rows.count), power_of_two(channels)
    if rows.strides[0][3] < row_stride or row_stride == 0:
        block_c = min(width, max(WIDEST, TILE // min(height, TILE)))
        return min(height, TILE // block_c), block_c
    block_r = min(height, TILE)
    return block_r, min(width, TILE // block_r)


@dataclass(frozen=True)
class Splits:
    """How a reduction over the rows is shared out.

    Attributes:
        block_r, block_c: shape of a tile.
        channel_blocks: tiles side by side.
        tiles: tiles per program, one below the other.
        count: programs per channel block.
    """

    block_r: int
    block_c: int
    channel_blocks: int
    tiles: int
    count: int

    @property
    def grid(self) -> tuple[int]:
        """Channel blocks are the faster index: programs that run together read neighbouring memory."""
        return (self.channel_blocks * self.count,)

    def blocks(self, rows: Rows) -> dict[str, Any]:
        """Block sizes of the kernel that reduces."""
        return {"INDEX": rows.index, "BLOCK_R": self.block_r, "BLOCK_C": self.block_c}

    def finish(self, channels: int) -> tuple[tuple[int], dict[str, int]]:
        """Grid and block sizes of the kernel that merges the splits."""
        block_splits = power_of_two(self.count)
        block_c = min(power_of_two(channels), FINISH_WIDEST, FINISH_TILE // block_splits)
        return (cdiv(channels, block_c),), {"BLOCK_SPLITS": block_splits, "BLOCK_C": block_c}


def split_rows(rows: Rows, channels: int, device: torch.device) -> Splits:
    """Enough splits that a few channels fill the device too."""
    block_r, block_c = tile_shape(rows, channels)
    blocks, tiles = cdiv(channels, block_c), cdiv(rows.count, block_r)
    wanted = min(cdiv(PROGRAMS_PER_SM * processors(device), blocks), MAX_SPLITS)
    per_split = cdiv(tiles, wanted)
    return Splits(block_r, block_c, blocks, per_split, cdiv(tiles, per_split))


def _partials(splits: Splits, input: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Two [splits, C] float64 buffers."""
    return input.new_empty(2, splits.count, input.shape[1], dtype=torch.float64).unbind()


def _elementwise(rows: Rows, channels: int) -> tuple[tuple[int], dict[str, Any]]:
    """Grid and block sizes of a kernel with one tile per program."""
    block_r, block_c = tile_shape(rows, channels)
    grid = (cdiv(rows.count, block_r) * cdiv(channels, block_c),)
    return grid, {"INDEX": rows.index, "BLOCK_R": block_r, "BLOCK_C": block_c}


def _packed(vector: torch.Tensor | None) -> torch.Tensor | None:
    """A [C] vector with stride 1 (a copy of C elements if it has another)."""
    return None if vector is None else vector.contiguous()


def train(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    momentum: float,
    eps: float,
    activation: int,
    negative_slope: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(output, mean, rstd) by batch statistics; the running ones are updated in place. As ``reference.train``."""
    if input.numel() == 0:  # nothing to launch
        return reference.train(
            input, weight, bias, running_mean, running_var, momentum, eps, activation, negative_slope
        )
    mean = input.new_empty(input.shape[1], dtype=accumulate_type(input.dtype))
    rstd = torch.empty_like(mean)
    mean_low = None if mean.dtype is torch.float64 else torch.empty_like(mean)
    x = _stats(input, mean, rstd, mean_low, running_mean, running_var, momentum, eps)
    return _apply(x, weight, bias, mean, rstd, mean_low, activation, negative_slope), mean, rstd


def _stats(
    input: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    mean_low: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    momentum: float,
    eps: float,
) -> torch.Tensor:
    """Fill mean, rstd and mean_low, update the running statistics; returns the input as the kernel saw it."""
    channels = input.shape[1]
    rows, (x,) = _rows([input], None)
    splits = split_rows(rows, channels, input.device)
    partials = _partials(splits, input)
    grid, blocks = splits.finish(channels)
    accumulate = tl.float64 if input.dtype is torch.float64 else tl.float32
    with launch_device(input):
        kernels.batch_norm_act_stats_kernel[splits.grid](
            x, *partials, channels, *rows.sizes, splits.tiles, *rows.strides[0],
            ACC=accumulate, **splits.blocks(rows),
        )  # fmt: skip
        kernels.batch_norm_act_stats_finish_kernel[grid](
            *partials, mean, rstd, mean_low, running_mean, running_var, float(momentum), float(eps),
            channels, rows.count, splits.count, splits.tiles * splits.block_r,
            *(0 if v is None else v.stride(0) for v in (running_mean, running_var)),
            **blocks,
        )  # fmt: skip
    return x


def eval(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    activation: int,
    negative_slope: float,
) -> torch.Tensor:
    """Output by given statistics. As ``reference.eval``."""
    return _apply(input, weight, bias, mean, rstd, None, activation, negative_slope)


def _apply(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    mean_low: torch.Tensor | None,
    activation: int,
    negative_slope: float,
) -> torch.Tensor:
    output = torch.empty_like(input)
    if output.numel() == 0:
        return output
    channels = input.shape[1]
    rows, (x,) = _rows([input], output)
    grid, blocks = _elementwise(rows, channels)
    with launch_device(input):
        kernels.batch_norm_act_apply_kernel[grid](
            x, output, _packed(weight), _packed(bias), _packed(mean), _packed(rstd), mean_low,
            float(negative_slope),
            channels, *rows.sizes, *rows.strides[0], *rows.strides[1],
            ACTIVATION=int(activation), **blocks,
        )  # fmt: skip
    return output


def backward(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    training: bool,
    activation: int,
    negative_slope: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(grad_input, grad_weight, grad_bias); the last two in the accumulate type. As ``reference.backward``."""
    dtype = accumulate_type(input.dtype)
    vectors = (weight, bias, mean, rstd)
    sums, per_row = _backward_reduce(grad_output, input, vectors, dtype, activation, negative_slope)
    grad_input = _backward_apply(grad_output, input, vectors, per_row, training, activation, negative_slope)
    return grad_input, *sums


Vectors = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor, torch.Tensor]  # weight, bias, mean, rstd
Pair = tuple[torch.Tensor, torch.Tensor]


def _backward_reduce(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    vectors: Vectors,
    dtype: torch.dtype,
    activation: int,
    negative_slope: float,
) -> tuple[Pair, Pair]:
    """(grad_weight, grad_bias) in ``dtype``, and (per_centred, per_element) by the number of rows here."""
    channels = input.shape[1]
    if input.numel() == 0:  # nothing to launch
        zeros = [input.new_zeros(channels, dtype=dtype) for _ in range(4)]
        return (zeros[0], zeros[1]), (zeros[2], zeros[3])
    grad_weight, grad_bias = (input.new_empty(channels, dtype=dtype) for _ in range(2))
    per_centred, per_element = (input.new_empty(channels, dtype=accumulate_type(input.dtype)) for _ in range(2))
    rows, (x, dy) = _rows([input, grad_output], None)
    x_strides, dy_strides = rows.strides
    packed = [_packed(vector) for vector in vectors]
    splits = split_rows(rows, channels, input.device)
    partials = _partials(splits, input)
    grid, blocks = splits.finish(channels)
    with launch_device(input):
        kernels.batch_norm_act_backward_reduce_kernel[splits.grid](
            dy, x, *packed, *partials, float(negative_slope),
            channels, *rows.sizes, splits.tiles, *dy_strides, *x_strides,
            ACTIVATION=int(activation), **splits.blocks(rows),
        )  # fmt: skip
        kernels.batch_norm_act_backward_finish_kernel[grid](
            *partials, packed[-1], grad_weight, grad_bias, per_centred, per_element,
            channels, rows.count, splits.count, **blocks,
        )  # fmt: skip
    return (grad_weight, grad_bias), (per_centred, per_element)


def _backward_apply(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    vectors: Vectors,
    per_row: Pair,
    training: bool,
    activation: int,
    negative_slope: float,
) -> torch.Tensor:
    grad_input = torch.empty_like(input)
    if grad_input.numel() == 0:
        return grad_input
    channels = input.shape[1]
    rows, (x, dy) = _rows([input, grad_output], grad_input)
    x_strides, dy_strides, dx_strides = rows.strides
    grid, blocks = _elementwise(rows, channels)
    with launch_device(input):
        kernels.batch_norm_act_backward_apply_kernel[grid](
            dy, x, grad_input, *(_packed(vector) for vector in (*vectors, *per_row)), float(negative_slope),
            channels, *rows.sizes, *dy_strides, *x_strides, *dx_strides,
            TRAINING=bool(training), ACTIVATION=int(activation), **blocks,
        )  # fmt: skip
    return grad_input


def local_stats(input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, biased variance) per channel in float64. As ``reference.local_stats``."""
    if input.numel() == 0:  # nothing to launch
        return reference.local_stats(input)
    mean, rstd = (input.new_empty(input.shape[1], dtype=torch.float64) for _ in range(2))
    _stats(input, mean, rstd, None, None, None, 0.0, 0.0)
    return mean, rstd.pow_(-2)  # eps is 0


def chained_stats(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, rstd); the running statistics are updated in place. As ``reference.chained_stats``."""
    if input.numel() == 0:  # nothing to launch
        return reference.chained_stats(input, running_mean, running_var, momentum, eps)
    mean = input.new_empty(input.shape[1], dtype=accumulate_type(input.dtype))
    rstd = torch.empty_like(mean)
    _stats(input, mean, rstd, None, running_mean, running_var, momentum, eps)
    return mean, rstd


def backward_reduce(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    activation: int,
    negative_slope: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(grad_weight, grad_bias) in float64. As ``reference.backward_reduce``."""
    vectors = (weight, bias, mean, rstd)
    return _backward_reduce(grad_output, input, vectors, torch.float64, activation, negative_slope)[0]


def backward_apply(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    per_centred: torch.Tensor,
    per_element: torch.Tensor,
    activation: int,
    negative_slope: float,
) -> torch.Tensor:
    """grad_input of training. As ``reference.backward_apply``."""
    vectors, per_row = (weight, bias, mean, rstd), (per_centred, per_element)
    return _backward_apply(grad_output, input, vectors, per_row, True, activation, negative_slope)
