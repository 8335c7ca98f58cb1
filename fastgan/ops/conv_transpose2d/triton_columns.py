"""The three maps where taps and channels of the big image together are the columns of one matrix product (one group):
few channels (C_b <= 8) are not padded one tap after the other, and the small image is read once for all of them.

Notation as in triton_kernels.py. Column j of the weight gradient and of the adjoint is (tap row, tap column, channel)
of KH * KW * CB; an image is counted pixel by pixel here, because neighbours share the big image's pixels."""

import triton
import triton.language as tl

from fastgan.ops.common.triton_epilogue import finished, rounded
from fastgan.ops.common.triton_operands import taken, vectors


@triton.jit(do_not_specialize=["tiles_h"])  # or what depends on the tile leaves the loop where there is one, and spills
def conv_transpose2d_columns_kernel(
    input_ptr,  # [N, CS, h, w]
    behind,  # what is taken in the input's place: triton_operands; not by channel
    weight_ptr,  # [CS, CB, KH, KW]
    bias_ptr,  # [CB] or None
    output_ptr,  # [N, CB, H, W]
    negative_slope: tl.float64, batch, cs, cb, h, w, big_h, big_w,
    tiles_h, tiles_w, low_h, low_w, valid_h, valid_w, step,
    in_n, in_c, in_h, in_w,
    wt_s, wt_b, wt_h, wt_w,
    out_n, out_c, out_h, out_w,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    ACTIVATION: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr, OFFSET: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: every ``step``-th tile of BLOCK_H x BLOCK_W small pixels times all columns, which fold into the
    output pixels of all phases inside the tile (col2im). The first ``low`` rows and columns of a tile and those after
    ``low + valid`` are there for their neighbours' sake.

    A column is (tap of the phase, phase, channel), so that what an output pixel sums is TAPS_H * TAPS_W apart: output
    pixel q * STRIDE + phase meets small pixel q + (phase + PAD) // STRIDE - t through tap (phase + PAD) % STRIDE + t
    * STRIDE."""
    PIXELS: tl.constexpr = BLOCK_H * BLOCK_W
    WIDTH: tl.constexpr = STRIDE_H * STRIDE_W * BLOCK_C
    m = tl.arange(0, PIXELS)
    row, column = m // BLOCK_W, m % BLOCK_W
    j = tl.arange(0, TAPS_H * TAPS_W * WIDTH)
    t, phase, channel = j // WIDTH, j // BLOCK_C % (STRIDE_H * STRIDE_W), j % BLOCK_C
    reach_h, reach_w = phase // STRIDE_W + PAD_H, phase % STRIDE_W + PAD_W
    k_h, k_w = reach_h % STRIDE_H + t // TAPS_W * STRIDE_H, reach_w % STRIDE_W + t % TAPS_W * STRIDE_W
    shift_h, shift_w = reach_h // STRIDE_H - t // TAPS_W, reach_w // STRIDE_W - t % TAPS_W
    source = (m[:, None] + (shift_h * BLOCK_W + shift_w)[None, :]) & (PIXELS - 1)  # wraps where it leaves the tile
    p = tl.arange(0, WIDTH)
    k = tl.arange(0, BLOCK_K)
    real = (k_h < KH) & (k_w < KW) & (channel < cb)
    b_ptr = weight_ptr + (k.to(OFFSET) * wt_s)[:, None] + (channel * wt_b + k_h * wt_h + k_w * wt_w)[None, :]
    for work in range(tl.program_id(0), batch * tiles_h * tiles_w, step):
        n = tl.full((), work, OFFSET) // (tiles_h * tiles_w)
        tile = work % (tiles_h * tiles_w)
        # the small pixel in the tile's corner
        top, left = tile // tiles_w * valid_h - low_h, tile % tiles_w * valid_w - low_w
        q_h, q_w = top + row, left + column
        pixel = (q_h >= 0) & (q_h < h) & (q_w >= 0) & (q_w < w)
        a_at = (n * in_n + q_h.to(OFFSET) * in_h + q_w.to(OFFSET) * in_w)[:, None]
        acc = tl.zeros((PIXELS, TAPS_H * TAPS_W * WIDTH), ACC)
        for first in range(0, cs, BLOCK_K):
            rest, at = k < cs - first, tl.full((), first, OFFSET)
            at_a, seen = a_at + ((k + at) * in_c)[None, :], pixel[:, None] & rest[None, :]
            a = tl.load(input_ptr + at_a, mask=seen, other=0.0)
            b = tl.load(b_ptr + at * wt_s, mask=rest[:, None] & real[None, :], other=0.0)
            a = taken(a, behind, None, at_a, seen, negative_slope, ACTIVATION, ACC, UPCAST)
            if UPCAST:
                a, b = a.to(ACC), b.to(ACC)
            acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=ACC)
        # not from outside the tile, nor from outside the image, where zeros times an infinite weight are NaN
        least_h, end_h = tl.maximum(0, -top) - shift_h, tl.minimum(BLOCK_H, h - top) - shift_h
        least_w, end_w = tl.maximum(0, -left) - shift_w, tl.minimum(BLOCK_W, w - left) - shift_w
        met = (row[:, None] >= least_h[None, :]) & (row[:, None] < end_h[None, :])
        met &= (column[:, None] >= least_w[None, :]) & (column[:, None] < end_w[None, :])
        folded = tl.where(met, tl.gather(acc, source, 0), 0.0)
        total = tl.sum(tl.reshape(folded, (PIXELS, TAPS_H * TAPS_W, WIDTH)), 1)
        total = finished(total, bias_ptr, p % BLOCK_C, cb, negative_slope, ACTIVATION if behind is None else 0)
        o_h = q_h[:, None] * STRIDE_H + (p // (BLOCK_C * STRIDE_W))[None, :]
        o_w = q_w[:, None] * STRIDE_W + (p // BLOCK_C % STRIDE_W)[None, :]
        own = (row >= low_h) & (row < low_h + valid_h) & (column >= low_w) & (column < low_w + valid_w)
        tl.store(
            output_ptr + n * out_n + o_h.to(OFFSET) * out_h + o_w.to(OFFSET) * out_w
            + ((p % BLOCK_C).to(OFFSET) * out_c)[None, :],
            rounded(total, output_ptr, UPCAST),
            mask=own[:, None] & (o_h < big_h) & (o_w < big_w) & (p % BLOCK_C < cb)[None, :],
        )  # fmt: skip


@triton.jit
def conv2d_columns_kernel(
    input_ptr,  # [N, CB, H, W]
    weight_ptr,  # [CS, CB, KH, KW]
    bias_ptr,  # [CS] or None
    output_ptr,  # [N, CS, h, w]
    negative_slope: tl.float64, batch, cs, h, w, big_h, big_w, n_tiles, step,
    in_n, in_c, in_h, in_w,
    wt_s, wt_b, wt_h, wt_w,
    out_n, out_c, out_h, out_w,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, CB: tl.constexpr,
    ACTIVATION: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr, OFFSET: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M small pixels x BLOCK_N output channels, and every ``step``-th such tile after it."""
    plane = tl.full((), h, OFFSET) * w
    pixels = plane * batch
    channel = tl.program_id(0) % n_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    kept = channel < cs
    b_ptr = weight_ptr + (channel.to(OFFSET) * wt_s)[None, :]
    for tile in range(tl.program_id(0) // n_tiles, tl.cdiv(pixels, BLOCK_M), step):
        m = tl.full((), tile, OFFSET) * BLOCK_M + tl.arange(0, BLOCK_M)
        n, place = m // plane, m % plane
        i_h, i_w = place // w, place % w
        pixel = m < pixels
        corner_h, corner_w = i_h * STRIDE_H - PAD_H, i_w * STRIDE_W - PAD_W
        a_ptr = input_ptr + (n * in_n + corner_h * in_h + corner_w * in_w)[:, None]
        acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
        for first in range(0, KH * KW * CB, BLOCK_K):
            j = first + tl.arange(0, BLOCK_K)
            k_h, k_w, c = j // (KW * CB), j // CB % KW, j % CB
            on_h, on_w = k_h * DILATION_H, k_w * DILATION_W
            o_h, o_w = corner_h[:, None] + on_h[None, :], corner_w[:, None] + on_w[None, :]
            inside = (o_h >= 0) & (o_h < big_h) & (o_w >= 0) & (o_w < big_w) & pixel[:, None] & (k_h < KH)[None, :]
            a = tl.load(
                a_ptr + (on_h.to(OFFSET) * in_h + on_w.to(OFFSET) * in_w + c.to(OFFSET) * in_c)[None, :],
                mask=inside, other=0.0,
            )  # fmt: skip
            b = tl.load(
                b_ptr + (c.to(OFFSET) * wt_b + k_h.to(OFFSET) * wt_h + k_w.to(OFFSET) * wt_w)[:, None],
                mask=(k_h < KH)[:, None] & kept[None, :], other=0.0,
            )  # fmt: skip
            if UPCAST:
                a, b = a.to(ACC), b.to(ACC)
            acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=ACC)
        acc = finished(acc, bias_ptr, channel, cs, negative_slope, ACTIVATION)
        tl.store(
            output_ptr + (n * out_n + i_h * out_h + i_w * out_w)[:, None] + (channel.to(OFFSET) * out_c)[None, :],
            rounded(acc, output_ptr, UPCAST), mask=pixel[:, None] & kept[None, :],
        )  # fmt: skip


@triton.jit
def conv2d_weight_columns_kernel(
    small_ptr,  # [N, CS, h, w]
    small_behind,  # what is taken in the small image's place: triton_operands
    big_ptr,  # [N, CB, H, W]
    big_behind,  # the same of the big one
    output_ptr,  # [CS, CB, KH, KW], or splits of it one after the other in ACC
    sums_ptr,  # [splits, CS] in ACC or None: the sums over the small image's pixels, which are column KH * KW * CB
    negative_slope: tl.float64, pixels, cs, h, w, big_h, big_w, m_tiles, n_tiles, per_split,
    sm_n, sm_c, sm_h, sm_w,
    bg_n, bg_c, bg_h, bg_w,
    out_split, out_s, out_b, out_h, out_w,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr, CB: tl.constexpr,
    ACTIVATION: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr, OFFSET: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M small channels x BLOCK_N columns, summed over one split of the small image's pixels."""
    pid = tl.program_id(0)
    channel = pid % m_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    pid = pid // m_tiles
    j = pid % n_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    split = (pid // n_tiles).to(OFFSET)
    k_h, k_w, c = j // (KW * CB), j // CB % KW, j % CB
    real, kept = k_h < KH, channel < cs
    on_h, on_w = k_h * DILATION_H - PAD_H, k_w * DILATION_W - PAD_W
    small_by = vectors(small_behind, channel[:, None], kept[:, None], ACC)
    big_by = vectors(big_behind, c[None, :], real[None, :], ACC)
    b_at = (on_h.to(OFFSET) * bg_h + on_w.to(OFFSET) * bg_w + c.to(OFFSET) * bg_c)[None, :]
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    start, plane = split * per_split, tl.full((), h, OFFSET) * w
    for first in range(start, tl.minimum(start + per_split, pixels), BLOCK_K):
        pixel = first + tl.arange(0, BLOCK_K)
        n, place = pixel // plane, pixel % plane
        i_h, i_w = place // w, place % w
        inside = pixel < pixels
        at_a = (channel.to(OFFSET) * sm_c)[:, None] + (n * sm_n + i_h * sm_h + i_w * sm_w)[None, :]
        seen = kept[:, None] & inside[None, :]
        a = tl.load(small_ptr + at_a, mask=seen, other=0.0)
        o_h, o_w = (i_h * STRIDE_H)[:, None] + on_h[None, :], (i_w * STRIDE_W)[:, None] + on_w[None, :]
        met = (o_h >= 0) & (o_h < big_h) & (o_w >= 0) & (o_w < big_w) & inside[:, None] & real[None, :]
        at_b = b_at + (n * bg_n + i_h * STRIDE_H * bg_h + i_w * STRIDE_W * bg_w)[:, None]
        b = tl.load(big_ptr + at_b, mask=met, other=0.0)
        a = taken(a, small_behind, small_by, at_a, seen, negative_slope, ACTIVATION, ACC, UPCAST)
        b = taken(b, big_behind, big_by, at_b, met, negative_slope, ACTIVATION, ACC, UPCAST)
        if UPCAST:
            a, b = a.to(ACC), b.to(ACC)
        if sums_ptr is not None:
            b = tl.where((j == KH * KW * CB)[None, :] & inside[:, None], 1.0, b).to(a.dtype)
        acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=ACC)
    tl.store(
        output_ptr + split * out_split + (channel.to(OFFSET) * out_s)[:, None]
        + (c.to(OFFSET) * out_b + k_h.to(OFFSET) * out_h + k_w.to(OFFSET) * out_w)[None, :],
        rounded(acc, output_ptr, UPCAST), mask=kept[:, None] & real[None, :],
    )  # fmt: skip
    if sums_ptr is not None:
        tl.store(
            sums_ptr + (split * cs + channel)[:, None] + j[None, :] - KH * KW * CB, acc,
            mask=kept[:, None] & (j == KH * KW * CB)[None, :],
        )  # fmt: skip
