"""Implicit GEMMs for the transposed convolution (by phases), its adjoint and the weight gradient.

Notation, per group: CS channels of the small image [N, groups * CS, h, w], CB of the big one [N, groups * CB, H, W];
the weight is [groups * CS, CB, KH, KW]; small pixel i and tap k meet big pixel o = i * STRIDE - PAD + k * DILATION.
Tensors have any strides; sums run in ACC (float32, or float64 for float64); offsets are 64-bit. UPCAST is for the
interpreter, whose 16-bit arithmetic is not the GPU's.
"""

import triton
import triton.language as tl


@triton.jit
def _first_tap(phase, STRIDE: tl.constexpr, PAD: tl.constexpr, DILATION: tl.constexpr, K: tl.constexpr,
               GCD: tl.constexpr, INVERSE: tl.constexpr):  # fmt: skip
    """Taps that meet output pixels o = q * STRIDE + phase are first, first + STRIDE / GCD, ...: returns (first, how
    many, small pixel that meets q = 0 at the first one); each later tap meets the small pixel DILATION / GCD before."""
    reach = phase + PAD
    period: tl.constexpr = STRIDE // GCD
    first = (reach // GCD * INVERSE) % period
    count = (K - first + period - 1) // period
    count = tl.where((reach % GCD == 0) & (first < K), count, 0)
    return first, count, (reach - first * DILATION) // STRIDE


@triton.jit
def conv_transpose2d_kernel(
    input_ptr,  # [N, groups * CS, h, w]
    weight_ptr,  # [groups * CS, CB, KH, KW]
    bias_ptr,  # [groups * CB] or None
    output_ptr,  # [N, groups * CB, H, W]
    batch, cs, cb, h, w, big_h, big_w, rows, columns, m_tiles, n_tiles, groups,
    in_n, in_c, in_h, in_w,
    wt_s, wt_b, wt_h, wt_w,
    out_n, out_c, out_h, out_w,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    GCD_H: tl.constexpr, GCD_W: tl.constexpr, INVERSE_H: tl.constexpr, INVERSE_W: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M output pixels of one phase x BLOCK_N output channels of one group. rows x columns is the
    number of pixels per phase and image; phases of a size that the stride does not divide mask the last one."""
    pid = tl.program_id(0)
    m_tile = pid % m_tiles
    pid = pid // m_tiles
    n_tile = pid % n_tiles
    pid = pid // n_tiles
    group = (pid % groups).to(tl.int64)
    phase = pid // groups
    phase_h, phase_w = phase // STRIDE_W, phase % STRIDE_W

    m = m_tile.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    q_w = m % columns
    q_h = m // columns % rows
    n = m // columns // rows
    o_h, o_w = q_h * STRIDE_H + phase_h, q_w * STRIDE_W + phase_w
    pixel = (n < batch) & (o_h < big_h) & (o_w < big_w)
    channel = n_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)

    first_h, count_h, base_h = _first_tap(phase_h, STRIDE_H, PAD_H, DILATION_H, KH, GCD_H, INVERSE_H)
    first_w, count_w, base_w = _first_tap(phase_w, STRIDE_W, PAD_W, DILATION_W, KW, GCD_W, INVERSE_W)
    k_tiles = tl.cdiv(cs, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for step in range(count_h * count_w * k_tiles):
        tap = step // k_tiles
        tap_h, tap_w = tap // count_w, tap % count_w
        i_h = q_h + base_h - tap_h * (DILATION_H // GCD_H)
        i_w = q_w + base_w - tap_w * (DILATION_W // GCD_W)
        source = step % k_tiles * BLOCK_K + k
        inside = pixel & (i_h >= 0) & (i_h < h) & (i_w >= 0) & (i_w < w)
        a = tl.load(
            input_ptr + (n * in_n + i_h * in_h + i_w * in_w)[:, None] + ((group * cs + source) * in_c)[None, :],
            mask=inside[:, None] & (source < cs)[None, :], other=0.0,
        )  # fmt: skip
        k_h = (first_h + tap_h * (STRIDE_H // GCD_H)).to(tl.int64)
        k_w = (first_w + tap_w * (STRIDE_W // GCD_W)).to(tl.int64)
        b = tl.load(
            weight_ptr + k_h * wt_h + k_w * wt_w
            + ((group * cs + source) * wt_s)[:, None] + (channel.to(tl.int64) * wt_b)[None, :],
            mask=(source < cs)[:, None] & (channel < cb)[None, :], other=0.0,
        )  # fmt: skip
        if UPCAST:
            a, b = a.to(ACC), b.to(ACC)
        acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=ACC)
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + group * cb + channel, mask=channel < cb, other=0.0).to(ACC)[None, :]
    tl.store(
        output_ptr + (n * out_n + o_h * out_h + o_w * out_w)[:, None] + ((group * cb + channel) * out_c)[None, :],
        acc.to(output_ptr.dtype.element_ty), mask=pixel[:, None] & (channel < cb)[None, :],
    )  # fmt: skip


@triton.jit
def conv2d_kernel(
    input_ptr,  # [N, groups * CB, H, W]
    weight_ptr,  # [groups * CS, CB, KH, KW]
    bias_ptr,  # [groups * CS] or None
    output_ptr,  # [N, groups * CS, h, w]
    batch, cs, cb, h, w, big_h, big_w, m_tiles, n_tiles,
    in_n, in_c, in_h, in_w,
    wt_s, wt_b, wt_h, wt_w,
    out_n, out_c, out_h, out_w,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M output pixels x BLOCK_N output channels of one group."""
    pid = tl.program_id(0)
    m_tile = pid % m_tiles
    pid = pid // m_tiles
    n_tile = pid % n_tiles
    group = (pid // n_tiles).to(tl.int64)

    m = m_tile.to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    i_w = m % w
    i_h = m // w % h
    n = m // w // h
    channel = n_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)

    k_tiles = tl.cdiv(cb, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    for step in range(KH * KW * k_tiles):
        tap = (step // k_tiles).to(tl.int64)
        k_h, k_w = tap // KW, tap % KW
        o_h = i_h * STRIDE_H - PAD_H + k_h * DILATION_H
        o_w = i_w * STRIDE_W - PAD_W + k_w * DILATION_W
        source = step % k_tiles * BLOCK_K + k
        inside = (n < batch) & (o_h >= 0) & (o_h < big_h) & (o_w >= 0) & (o_w < big_w)
        a = tl.load(
            input_ptr + (n * in_n + o_h * in_h + o_w * in_w)[:, None] + ((group * cb + source) * in_c)[None, :],
            mask=inside[:, None] & (source < cb)[None, :], other=0.0,
        )  # fmt: skip
        b = tl.load(
            weight_ptr + k_h * wt_h + k_w * wt_w
            + (source.to(tl.int64) * wt_b)[:, None] + ((group * cs + channel) * wt_s)[None, :],
            mask=(source < cb)[:, None] & (channel < cs)[None, :], other=0.0,
        )  # fmt: skip
        if UPCAST:
            a, b = a.to(ACC), b.to(ACC)
        acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=ACC)
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + group * cs + channel, mask=channel < cs, other=0.0).to(ACC)[None, :]
    tl.store(
        output_ptr + (n * out_n + i_h * out_h + i_w * out_w)[:, None] + ((group * cs + channel) * out_c)[None, :],
        acc.to(output_ptr.dtype.element_ty), mask=(n < batch)[:, None] & (channel < cs)[None, :],
    )  # fmt: skip


@triton.jit
def conv2d_weight_kernel(
    small_ptr,  # [N, groups * CS, h, w]
    big_ptr,  # [N, groups * CB, H, W]
    partial_ptr,  # [splits, groups * CS, CB, KH, KW] of ACC, contiguous
    pixels, cs, cb, h, w, big_h, big_w, m_tiles, n_tiles, groups, per_split,
    sm_n, sm_c, sm_h, sm_w,
    bg_n, bg_c, bg_h, bg_w,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    DILATION_H: tl.constexpr, DILATION_W: tl.constexpr, KH: tl.constexpr, KW: tl.constexpr,
    ACC: tl.constexpr, PRECISION: tl.constexpr, UPCAST: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M x BLOCK_N channels of one tap of one group, summed over the pixels of one split; the splits
    are added up in a fixed order afterwards (no atomics). per_split is a multiple of BLOCK_K."""
    pid = tl.program_id(0)
    m_tile = pid % m_tiles
    pid = pid // m_tiles
    n_tile = pid % n_tiles
    pid = pid // n_tiles
    tap = pid % (KH * KW)
    pid = pid // (KH * KW)
    group = (pid % groups).to(tl.int64)
    split = (pid // groups).to(tl.int64)
    k_h, k_w = tap // KW, tap % KW

    s_channel = m_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    b_channel = n_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    start = split * per_split
    for offset in range(0, per_split, BLOCK_K):
        pixel = start + offset + k
        i_w = pixel % w
        i_h = pixel // w % h
        n = pixel // w // h
        o_h = i_h * STRIDE_H - PAD_H + k_h * DILATION_H
        o_w = i_w * STRIDE_W - PAD_W + k_w * DILATION_W
        inside = (pixel < pixels) & (o_h >= 0) & (o_h < big_h) & (o_w >= 0) & (o_w < big_w)
        # a pixel whose partner lies outside the image contributes nothing, not NaN * 0: both sides are masked
        a = tl.load(
            small_ptr + ((group * cs + s_channel) * sm_c)[:, None] + (n * sm_n + i_h * sm_h + i_w * sm_w)[None, :],
            mask=(s_channel < cs)[:, None] & inside[None, :], other=0.0,
        )  # fmt: skip
        b = tl.load(
            big_ptr + (n * bg_n + o_h * bg_h + o_w * bg_w)[:, None] + ((group * cb + b_channel) * bg_c)[None, :],
            mask=inside[:, None] & (b_channel < cb)[None, :], other=0.0,
        )  # fmt: skip
        if UPCAST:
            a, b = a.to(ACC), b.to(ACC)
        acc = tl.dot(a, b, acc, input_precision=PRECISION, out_dtype=ACC)
    row = (split * groups + group) * cs + s_channel
    tl.store(
        partial_ptr + (((row[:, None] * cb) + b_channel[None, :]) * KH + k_h) * KW + k_w,
        acc, mask=(s_channel < cs)[:, None] & (b_channel < cb)[None, :],
    )  # fmt: skip
