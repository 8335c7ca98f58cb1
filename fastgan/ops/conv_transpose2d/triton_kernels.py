"""Implicit GEMMs for the transposed convolution (by phases), its adjoint and the weight gradient.

Notation, per group: CS channels of the small image [N, groups * CS, h, w], CB of the big one [N, groups * CB, H, W];
the weight is [groups * CS, CB, KH, KW]; small pixel i and tap k meet big pixel o = i * STRIDE - PAD + k * DILATION.
Tensors have any strides; sums run in ACC (float32, or float64 for float64); OFFSET is the type of offsets, int64 only
where a tensor needs it. UPCAST is for the interpreter, whose 16-bit arithmetic is not the GPU's.

A sum may be split among programs (``splits``): each writes its part to a copy of the output of its own, in ACC, and
``finish_kernel`` adds them in a fixed order. No atomics: repeats are bit-equal.

Pixels are counted image by image *within* a place: row m of a tile is place m // batch of image m % batch. So a tile
has few places, and of the taps only those run that meet the image at one of them: none that lies outside, where the
batch is a multiple of the tile."""

import triton
import triton.language as tl

from fastgan.ops.common.triton_epilogue import finished, rounded
from fastgan.ops.common.triton_operands import taken, vectors
from fastgan.ops.common.triton_statistics import closed
from fastgan.ops.conv_transpose2d.triton_taps import (
    first_tap,
    next_step,
    place_of_program,
    places,
    split_steps,
    taps_down,
    taps_up,
    with_beside,
)


@triton.jit
def conv_transpose2d_kernel(
    input_ptr,  # [N, groups * CS, h, w]
    behind,  # what is taken in the input's place: triton_operands
    beside,  # the channels that the weight has behind these, without groups: triton_taps.with_beside; or None
    weight_ptr,  # [groups * CS, CB, KH, KW]
    bias_ptr,  # [groups * CB] or None
    output_ptr,  # [N, groups * CB, H, W], or splits of it one after the other in ACC
    told,  # what else is made of the output: triton_statistics; or None
    negative_slope: tl.float64, batch, cs, cb, h, w, big_h, big_w, rows, columns, m_tiles, n_tiles, groups, splits,
    in_n, in_c, in_h, in_w,
    wt_s, wt_b, wt_h, wt_w,
    out_split, out_n, out_c, out_h, out_w,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    GCD_H: tl.constexpr, GCD_W: tl.constexpr, INVERSE_H: tl.constexpr, INVERSE_W: tl.constexpr,
    ACTIVATION: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr, OFFSET: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M output pixels of one phase x BLOCK_N output channels of one group. rows x columns is the
    number of pixels per phase and image; phases of a size that the stride does not divide mask the last one.
    ACTIVATION is applied to the output, or its derivative to the input."""
    m_tile, n_tile, group, rest = place_of_program(m_tiles, n_tiles, groups, OFFSET)
    phase, split = rest % (STRIDE_H * STRIDE_W), rest // (STRIDE_H * STRIDE_W)
    phase_h, phase_w = phase // STRIDE_W, phase % STRIDE_W

    start = m_tile.to(OFFSET) * BLOCK_M
    m = start + tl.arange(0, BLOCK_M)
    n, at = m % batch, m // batch
    q_h, q_w = at // columns, at % columns
    o_h, o_w = q_h * STRIDE_H + phase_h, q_w * STRIDE_W + phase_w
    pixel = (q_h < rows) & (o_h < big_h) & (o_w < big_w)
    channel = n_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)

    first_h, count_h, base_h = first_tap(phase_h, STRIDE_H, PAD_H, DILATION_H, KH, GCD_H, INVERSE_H)
    first_w, count_w, base_w = first_tap(phase_w, STRIDE_W, PAD_W, DILATION_W, KW, GCD_W, INVERSE_W)
    low_h, high_h, low_w, high_w = places(start, BLOCK_M, batch, rows, columns)
    skip_h, count_h = taps_down(low_h + base_h, high_h + base_h, h, count_h, DILATION_H // GCD_H)
    skip_w, count_w = taps_down(low_w + base_w, high_w + base_w, w, count_w, DILATION_W // GCD_W)
    count_h, count_w, skip_w = count_h.to(tl.int32), count_w.to(tl.int32), skip_w.to(tl.int32)
    first, end, tap, tile = split_steps(split, splits, count_h * count_w, tl.cdiv(cs, BLOCK_K))
    tap_h, tap_w = skip_h.to(tl.int32) + tap // tl.maximum(count_w, 1), skip_w + tap % tl.maximum(count_w, 1)
    source = tile * BLOCK_K

    i_h, i_w = q_h + base_h, q_w + base_w  # at tap 0; tap t lies t * DILATION / GCD before
    a_at = (n * in_n + i_h * in_h + i_w * in_w)[:, None] + ((group * cs + k) * in_c)[None, :]
    taps_h = i_h, -(DILATION_H // GCD_H), h, skip_h, tl.where(split == 0, count_h, 0), first_h, STRIDE_H // GCD_H
    taps_w = i_w, -(DILATION_W // GCD_W), w, skip_w, count_w, first_w, STRIDE_W // GCD_W
    more = weight_ptr + tl.full((), cs, OFFSET) * wt_s + channel.to(OFFSET) * wt_b
    weights = more, wt_s, wt_h, wt_w, channel < cb
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    acc = with_beside(acc, beside, weights, n, pixel, taps_h, taps_w, OFFSET, ACC)
    b_ptr = weight_ptr + ((group * cs + k) * wt_s)[:, None] + (channel.to(OFFSET) * wt_b)[None, :]
    for _ in range(first, end):
        back_h, back_w = tap_h * (DILATION_H // GCD_H), tap_w * (DILATION_W // GCD_W)
        inside = pixel & (i_h >= back_h) & (i_h - back_h < h) & (i_w >= back_w) & (i_w - back_w < w)
        left = cs - source
        at_a = source.to(OFFSET) * in_c - back_h.to(OFFSET) * in_h - back_w.to(OFFSET) * in_w
        seen = inside[:, None] & (k < left)[None, :]
        a = tl.load(input_ptr + (a_at + at_a), mask=seen, other=0.0)
        k_h, k_w = first_h + tap_h * (STRIDE_H // GCD_H), first_w + tap_w * (STRIDE_W // GCD_W)
        at_b = source.to(OFFSET) * wt_s + k_h.to(OFFSET) * wt_h + k_w.to(OFFSET) * wt_w
        b = tl.load(b_ptr + at_b, mask=(k < left)[:, None] & (channel < cb)[None, :], other=0.0)
        by_channel = vectors(behind, (group * cs + source + k)[None, :], (k < left)[None, :], ACC)
        a = taken(a, behind, by_channel, a_at + at_a, seen, negative_slope, ACTIVATION, ACC, UPCAST)
        if UPCAST:
            a, b = a.to(ACC), b.to(ACC)
        acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=ACC)
        source, tap_h, tap_w = next_step(source, cs, tap_h, tap_w, skip_w, count_w, BLOCK_K)
    channel, kept = group * cb + channel, channel < cb
    fused: tl.constexpr = ACTIVATION if behind is None and told is None else 0
    acc = finished(acc, bias_ptr, channel, (group + 1) * cb, negative_slope, fused)
    to = (n * out_n + o_h * out_h + o_w * out_w)[:, None] + (channel * out_c)[None, :]
    place = (phase * m_tiles + m_tile).to(OFFSET), STRIDE_H * STRIDE_W * m_tiles, channel, kept, groups * cb
    acc = closed(acc, told, output_ptr, to, pixel, place, negative_slope, ACTIVATION, ACC, UPCAST)
    tl.store(
        output_ptr + split.to(OFFSET) * out_split + to, rounded(acc, output_ptr, UPCAST),
        mask=pixel[:, None] & kept[None, :],
    )  # fmt: skip


@triton.jit
def conv2d_kernel(
    input_ptr,  # [N, groups * CB, H, W]
    behind,  # what is taken in the input's place: triton_operands
    beside,  # the channels that the weight has behind these, without groups: triton_taps.with_beside; or None
    weight_ptr,  # [groups * CS, CB, KH, KW]
    bias_ptr,  # [groups * CS] or None
    output_ptr,  # [N, groups * CS, h, w], or splits of it one after the other in ACC
    told,  # what else is made of the output: triton_statistics; or None
    negative_slope: tl.float64, batch, cs, cb, h, w, big_h, big_w, m_tiles, n_tiles, groups, splits,
    in_n, in_c, in_h, in_w,
    wt_s, wt_b, wt_h, wt_w,
    out_split, out_n, out_c, out_h, out_w,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    ACTIVATION: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr, OFFSET: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M output pixels x BLOCK_N output channels of one group."""
    m_tile, n_tile, group, split = place_of_program(m_tiles, n_tiles, groups, OFFSET)
    start = m_tile.to(OFFSET) * BLOCK_M
    m = start + tl.arange(0, BLOCK_M)
    n, at = m % batch, m // batch
    i_h, i_w = at // w, at % w
    pixel = i_h < h
    channel = n_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)

    low_h, high_h, low_w, high_w = places(start, BLOCK_M, batch, h, w)
    skip_h, count_h = taps_up(low_h * STRIDE_H - PAD_H, high_h * STRIDE_H - PAD_H, big_h, KH, DILATION_H)
    skip_w, count_w = taps_up(low_w * STRIDE_W - PAD_W, high_w * STRIDE_W - PAD_W, big_w, KW, DILATION_W)
    count_h, count_w, skip_w = count_h.to(tl.int32), count_w.to(tl.int32), skip_w.to(tl.int32)
    first, end, tap, tile = split_steps(split, splits, count_h * count_w, tl.cdiv(cb, BLOCK_K))
    k_h, k_w = skip_h.to(tl.int32) + tap // tl.maximum(count_w, 1), skip_w + tap % tl.maximum(count_w, 1)
    source = tile * BLOCK_K

    o_h, o_w = i_h * STRIDE_H - PAD_H, i_w * STRIDE_W - PAD_W  # at tap 0
    a_at = (n * in_n + o_h * in_h + o_w * in_w)[:, None] + ((group * cb + k) * in_c)[None, :]
    taps_h = o_h, DILATION_H, big_h, skip_h, tl.where(split == 0, count_h, 0), 0, 1
    taps_w = o_w, DILATION_W, big_w, skip_w, count_w, 0, 1
    more = weight_ptr + tl.full((), cb, OFFSET) * wt_b + channel.to(OFFSET) * wt_s
    weights = more, wt_b, wt_h, wt_w, channel < cs
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    acc = with_beside(acc, beside, weights, n, pixel, taps_h, taps_w, OFFSET, ACC)
    b_ptr = weight_ptr + (k.to(OFFSET) * wt_b)[:, None] + ((group * cs + channel) * wt_s)[None, :]
    for _ in range(first, end):
        on_h, on_w = k_h * DILATION_H, k_w * DILATION_W
        inside = pixel & (o_h + on_h >= 0) & (o_h + on_h < big_h) & (o_w + on_w >= 0) & (o_w + on_w < big_w)
        left = cb - source
        seen = inside[:, None] & (k < left)[None, :]
        at_a = source.to(OFFSET) * in_c + on_h.to(OFFSET) * in_h + on_w.to(OFFSET) * in_w
        a = tl.load(input_ptr + (a_at + at_a), mask=seen, other=0.0)
        b = tl.load(
            b_ptr + (source.to(OFFSET) * wt_b + k_h.to(OFFSET) * wt_h + k_w.to(OFFSET) * wt_w),
            mask=(k < left)[:, None] & (channel < cs)[None, :], other=0.0,
        )  # fmt: skip
        by_channel = vectors(behind, (group * cb + source + k)[None, :], (k < left)[None, :], ACC)
        a = taken(a, behind, by_channel, a_at + at_a, seen, negative_slope, ACTIVATION, ACC, UPCAST)
        if UPCAST:
            a, b = a.to(ACC), b.to(ACC)
        acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=ACC)
        source, k_h, k_w = next_step(source, cb, k_h, k_w, skip_w, count_w, BLOCK_K)
    channel, kept = group * cs + channel, channel < cs
    fused: tl.constexpr = ACTIVATION if behind is None and told is None else 0
    acc = finished(acc, bias_ptr, channel, (group + 1) * cs, negative_slope, fused)
    to = (n * out_n + i_h * out_h + i_w * out_w)[:, None] + (channel * out_c)[None, :]
    place = m_tile.to(OFFSET), m_tiles, channel, kept, groups * cs
    acc = closed(acc, told, output_ptr, to, pixel, place, negative_slope, ACTIVATION, ACC, UPCAST)
    tl.store(
        output_ptr + split.to(OFFSET) * out_split + to, rounded(acc, output_ptr, UPCAST),
        mask=pixel[:, None] & kept[None, :],
    )  # fmt: skip


@triton.jit
def conv2d_weight_kernel(
    small_ptr,  # [N, groups * CS, h, w]
    small_behind,  # what is taken in the small image's place: triton_operands
    big_ptr,  # [N, groups * CB, H, W]
    big_behind,  # the same of the big one
    output_ptr,  # [groups * CS, CB, KH, KW], or splits of it one after the other in ACC
    negative_slope: tl.float64, batch, cs, cb, h, w, big_h, big_w, m_tiles, n_tiles, groups, splits,
    sm_n, sm_c, sm_h, sm_w,
    bg_n, bg_c, bg_h, bg_w,
    out_split, out_s, out_b, out_h, out_w,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    ACTIVATION: tl.constexpr, ONE_PLACE: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr, OFFSET: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M x BLOCK_N channels of one tap of one group, summed over one split of the pixels that meet
    the big image through the tap. ONE_PLACE: BLOCK_K divides the batch, so all pixels of a step are at one place."""
    pid = tl.program_id(0)
    m_tile = pid % m_tiles
    pid = pid // m_tiles
    n_tile = pid % n_tiles
    pid = pid // n_tiles
    tap = pid % (KH * KW)
    pid = pid // (KH * KW)
    group = (pid % groups).to(OFFSET)
    split = (pid // groups).to(OFFSET)
    k_h, k_w = tap // KW, tap % KW

    s_channel = m_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    b_channel = n_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    shift_h, shift_w = k_h * DILATION_H - PAD_H, k_w * DILATION_W - PAD_W  # small pixel 0 meets this big one
    first_h, rows = taps_up(shift_h, shift_h, big_h, h, STRIDE_H)
    first_w, columns = taps_up(shift_w, shift_w, big_w, w, STRIDE_W)
    pixels = rows.to(OFFSET) * columns * batch
    per_split = tl.cdiv(tl.cdiv(pixels, BLOCK_K), splits) * BLOCK_K
    start = split * per_split
    small_channel, big_channel = (group * cs + s_channel)[:, None], (group * cb + b_channel)[None, :]
    s_kept, b_kept = (s_channel < cs)[:, None], (b_channel < cb)[None, :]
    small_by = vectors(small_behind, small_channel, s_kept, ACC)
    big_by = vectors(big_behind, big_channel, b_kept, ACC)
    for offset in range(start, tl.minimum(start + per_split, pixels), BLOCK_K):
        inside = k < pixels - offset
        if ONE_PLACE:
            n, place = offset % batch + k, offset // batch
        else:
            n, place = (offset + k) % batch, (offset + k) // batch
        i_h, i_w = first_h + place // columns, first_w + place % columns
        o_h, o_w = i_h * STRIDE_H + shift_h, i_w * STRIDE_W + shift_w
        at_a = small_channel * sm_c + (n * sm_n + i_h * sm_h + i_w * sm_w)[None, :]
        at_b = big_channel * bg_c + (n * bg_n + o_h * bg_h + o_w * bg_w)[:, None]
        seen_a, seen_b = s_kept & inside[None, :], b_kept & inside[:, None]
        a, b = tl.load(small_ptr + at_a, mask=seen_a, other=0.0), tl.load(big_ptr + at_b, mask=seen_b, other=0.0)
        a = taken(a, small_behind, small_by, at_a, seen_a, negative_slope, ACTIVATION, ACC, UPCAST)
        b = taken(b, big_behind, big_by, at_b, seen_b, negative_slope, ACTIVATION, ACC, UPCAST)
        if UPCAST:
            a, b = a.to(ACC), b.to(ACC)
        acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=ACC)
    to = small_channel * out_s + (b_channel.to(OFFSET) * out_b)[None, :]
    tl.store(
        output_ptr + split * out_split + k_h.to(OFFSET) * out_h + k_w.to(OFFSET) * out_w + to,
        rounded(acc, output_ptr, UPCAST), mask=s_kept & b_kept,
    )  # fmt: skip
