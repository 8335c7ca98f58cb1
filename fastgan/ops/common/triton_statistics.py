"""What a product's tiles tell by channel about their output, and the kernels that merge it: in a fixed order, so that
repeats are bit-equal. ``told`` says what, by its length.

* None: nothing.
* (parts,): the statistics of the output. Of each tile its mean, the sum of what its values are above that (rounding
  left something), and the sum of the squares of it.
* (parts, y, mean, rstd, weight, bias): the output is the gradient behind a batch norm of y and its activation; what is
  stored is that of y by given statistics, and of each tile are told the sums of the gradient before the activation and
  of that one times y - mean. y has the output's strides, vectors are dense.

``parts`` is [tiles, 3 or 2, channels] in the type of the sums; then, for statistics, [tiles]: the rows of each."""

import triton
import triton.language as tl

from fastgan.ops.common.triton_epilogue import rounded
from fastgan.ops.common.triton_operands import slope_of, vectors


@triton.jit
def closed(
    acc, told, output_ptr, to, pixel, tile_and_channels, negative_slope, ACTIVATION: tl.constexpr, ACC: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """What is stored at ``output_ptr + to`` for the sums ``acc`` of a tile, which tells of it what ``told`` wants.
    ``pixel``: the rows that there are. ``tile_and_channels``: the tile and how many there are, the channels [columns]
    and which of them there are, and how many there are."""
    tile, tiles, channel, kept, channels = tile_and_channels
    if told is not None:
        there = pixel[:, None]
        if len(told) == 1:
            wide = tl.where(there, rounded(acc, output_ptr, UPCAST).to(ACC), 0.0)
            count = tl.sum(pixel.to(ACC))
            mean = tl.sum(wide, 0) / tl.maximum(count, 1.0)
            above = tl.where(there, wide - mean[None, :], 0.0)
            at = told[0] + tile * 3 * channels + channel
            tl.store(at, mean, mask=kept)
            tl.store(at + channels, tl.sum(above, 0), mask=kept)
            tl.store(at + 2 * channels, tl.sum(above * above, 0), mask=kept)
            tl.store(told[0] + tiles * 3 * channels + tile, count)
        else:
            _, y_ptr, mean, rstd, weight, bias = told
            by_channel = vectors((mean, rstd, weight, bias), channel[None, :], kept[None, :], ACC)
            above = tl.load(y_ptr + to, mask=there & kept[None, :], other=0.0).to(ACC) - by_channel[0]
            grad = slope_of(acc, above * by_channel[1] + by_channel[2], negative_slope, ACTIVATION)
            grad = tl.where(there, grad, 0.0)
            at = told[0] + tile * 2 * channels + channel
            tl.store(at, tl.sum(grad, 0), mask=kept)
            tl.store(at + channels, tl.sum(grad * above, 0), mask=kept)
            acc = grad * by_channel[1]
    return acc


@triton.jit
def finish_closed_kernel(
    partial_ptr,  # splits copies of the output, one after the other, in the type of the sums
    bias_ptr,  # [channels] or None
    output_ptr,
    told,
    negative_slope: tl.float64, size, splits, rows, plane, channels, m_tiles,
    out_n, out_c, out_p,
    ACTIVATION: tl.constexpr, ACC: tl.constexpr, UPCAST: tl.constexpr, OFFSET: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """The sum of the splits, with the bias, and what ``told`` wants. One program: BLOCK_M pixels x BLOCK_N channels of
    an output with ``plane`` pixels an image."""
    m_tile, n_tile = (tl.program_id(0) % m_tiles).to(OFFSET), tl.program_id(0) // m_tiles
    m = m_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = n_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    pixel, kept = m < rows, channel < channels
    to = (m // plane * out_n + m % plane * out_p)[:, None] + (channel.to(OFFSET) * out_c)[None, :]
    mask = pixel[:, None] & kept[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for split in range(0, splits):
        total += tl.load(partial_ptr + (tl.full((), split, OFFSET) * size + to), mask=mask, other=0.0)
    if bias_ptr is not None:
        total += tl.load(bias_ptr + channel, mask=kept, other=0.0).to(ACC)[None, :]
    place = m_tile, m_tiles, channel, kept, channels
    total = closed(total, told, output_ptr, to, pixel, place, negative_slope, ACTIVATION, ACC, UPCAST)
    tl.store(output_ptr + to, rounded(total, output_ptr, UPCAST), mask=mask)


@triton.jit
def updated(place, new, share, keep):
    """running = (1 - share) * running + share * new in float64, in place."""
    value = (1.0 - share) * tl.load(place, mask=keep, other=0.0).to(tl.float64) + share * new
    if not place.dtype.element_ty.is_fp64():
        value = value.to(tl.float32)  # the interpreter has no conversion from float64 to bfloat16
    tl.store(place, value, mask=keep)


@triton.jit
def statistics_merge_kernel(
    parts_ptr,
    mean_ptr, rstd_ptr,  # [channels]
    running,  # (mean, var) [channels], updated in place; or None
    momentum: tl.float64, eps: tl.float64, tiles, channels, running_mean_c, running_var_c,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Mean and rstd of all tiles' values, in float64: deviations from the first tile's mean, which is near enough
    (Chan, Golub & LeVeque 1983). One program: BLOCK_C channels."""
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    kept = channel < channels
    near = tl.load(parts_ptr + channel, mask=kept, other=0.0).to(tl.float64)
    values = tl.zeros((BLOCK_T,), tl.float64)
    total, squares = tl.zeros((BLOCK_T, BLOCK_C), tl.float64), tl.zeros((BLOCK_T, BLOCK_C), tl.float64)
    for first in range(0, tiles, BLOCK_T):
        tile = (first + tl.arange(0, BLOCK_T)).to(tl.int64)
        there = (tile < tiles)[:, None] & kept[None, :]
        at = parts_ptr + (tile * 3 * channels)[:, None] + channel[None, :]
        rows = tl.load(parts_ptr + tiles * 3 * channels + tile, mask=tile < tiles, other=0.0).to(tl.float64)
        off = tl.load(at, mask=there, other=0.0).to(tl.float64)
        off = tl.where((rows > 0)[:, None] & there, off - near[None, :], 0.0)
        rest = tl.load(at + channels, mask=there, other=0.0).to(tl.float64)
        square = tl.load(at + 2 * channels, mask=there, other=0.0).to(tl.float64)
        values += rows
        total += rows[:, None] * off + rest
        squares += square + off * (2.0 * rest + rows[:, None] * off)
    count = tl.maximum(tl.sum(values), 1.0)
    shift = tl.sum(total, 0) / count
    var = tl.sum(squares, 0) / count - shift * shift
    var = tl.where(var < 0, 0.0, var)  # rounding may leave a tiny negative; NaN stays
    mean = near + shift
    TYPE: tl.constexpr = mean_ptr.dtype.element_ty
    tl.store(mean_ptr + channel, mean.to(TYPE), mask=kept)
    tl.store(rstd_ptr + channel, (1.0 / tl.sqrt(var + tl.full((), eps, tl.float64))).to(TYPE), mask=kept)
    if running is not None:
        share = tl.full((), momentum, tl.float64)
        updated(running[0] + channel * running_mean_c, mean, share, kept)
        updated(running[1] + channel * running_var_c, var * (count / tl.maximum(count - 1.0, 1.0)), share, kept)


@triton.jit
def gradients_merge_kernel(
    parts_ptr,
    rstd_ptr, weight_ptr,  # [channels], of the batch norm
    grad_mean_ptr, grad_rstd_ptr, grad_weight_ptr, grad_bias_ptr,  # [channels]
    tiles, channels,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """The gradients of a batch norm's vectors from all tiles' sums, in float64. One program: BLOCK_C channels."""
    channel = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    kept = channel < channels
    sums, along = tl.zeros((BLOCK_T, BLOCK_C), tl.float64), tl.zeros((BLOCK_T, BLOCK_C), tl.float64)
    for first in range(0, tiles, BLOCK_T):
        tile = (first + tl.arange(0, BLOCK_T)).to(tl.int64)
        there = (tile < tiles)[:, None] & kept[None, :]
        at = parts_ptr + (tile * 2 * channels)[:, None] + channel[None, :]
        sums += tl.load(at, mask=there, other=0.0).to(tl.float64)
        along += tl.load(at + channels, mask=there, other=0.0).to(tl.float64)
    total, centred = tl.sum(sums, 0), tl.sum(along, 0)
    rstd = tl.load(rstd_ptr + channel, mask=kept, other=0.0).to(tl.float64)
    weight = tl.load(weight_ptr + channel, mask=kept, other=0.0).to(tl.float64)
    TYPE: tl.constexpr = grad_mean_ptr.dtype.element_ty
    tl.store(grad_mean_ptr + channel, (-rstd * weight * total).to(TYPE), mask=kept)
    tl.store(grad_rstd_ptr + channel, (weight * centred).to(TYPE), mask=kept)
    tl.store(grad_weight_ptr + channel, (rstd * centred).to(TYPE), mask=kept)
    tl.store(grad_bias_ptr + channel, total.to(TYPE), mask=kept)
