"""Triton kernels of batch norm + activation, cut at the reductions: statistics, apply, backward sums, backward apply.

A tensor is seen as [rows, C]: a row is a position (n, spatial...), decomposed into at most three coordinates of sizes
(outer, middle, inner), each with a stride per tensor. A program works on tiles [BLOCK_R, BLOCK_C]; the launcher shapes
them so that neighbouring threads touch neighbouring addresses (tall for NCHW, wide for NHWC). INDEX is the integer type
of row numbers: 64-bit division is slow, so it is int64 only where the rows do not fit 32 bits. Offsets are int64.

Elements are computed in ACC, the dtype of the statistics: loads are converted at once, stores convert back. What a
program's lanes have gathered is merged in float64, once per program: a sum that cancels would lose there what the lanes
have kept.
"""

import triton
import triton.language as tl

from fastgan.ops.common.triton_statistics import updated

# fastgan.ops.common.activation.Activation; a test compares the two.
RELU = tl.constexpr(1)
LEAKY_RELU = tl.constexpr(2)


@triton.jit
def _offsets(row, middle, inner, stride_0, stride_1, stride_2):
    """Element offsets of rows, [BLOCK_R, 1]; the coordinates become int64 before they meet a stride."""
    prefix = row // inner
    offset = (prefix // middle).to(tl.int64) * stride_0 + (prefix % middle).to(tl.int64) * stride_1
    return (offset + (row % inner).to(tl.int64) * stride_2)[:, None]


@triton.jit
def _program(channels, BLOCK_C: tl.constexpr):
    """(number of the program among those of its channels, channels as int64 [BLOCK_C], which of them exist)."""
    blocks = tl.cdiv(channels, BLOCK_C)
    channel = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    return tl.program_id(0) // blocks, channel, channel < channels


@triton.jit
def _vector(ptr, channel, keep, ACC: tl.constexpr):
    """A per-channel vector as [1, BLOCK_C]."""
    return tl.load(ptr + channel, mask=keep, other=0.0).to(ACC)[None, :]


@triton.jit
def _affine(weight_ptr, bias_ptr, rstd, channel, keep, ACC: tl.constexpr):
    """(rstd * weight, bias), [1, BLOCK_C] each."""
    scale = rstd
    shift = tl.zeros_like(rstd)
    if weight_ptr is not None:
        scale = rstd * _vector(weight_ptr, channel, keep, ACC)
    if bias_ptr is not None:
        shift = _vector(bias_ptr, channel, keep, ACC)
    return scale, shift


@triton.jit
def _activation_backward(grad, z, negative_slope, ACTIVATION: tl.constexpr):
    """grad times the derivative at z; at NaN torch's branch: relu passes grad, leaky_relu slope * grad."""
    if ACTIVATION == RELU:
        grad = tl.where(z <= 0, 0.0, grad)
    elif ACTIVATION == LEAKY_RELU:
        grad = tl.where(z > 0, grad, grad * negative_slope)
    return grad


@triton.jit
def _merge(reference, mean, m2, count):
    """Chan's merge along axis 0, two-pass, of parts with count [R, 1], mean reference + mean [R, C] and M2 [R, C].

    Returns the float64 mean and M2, [C] each.
    """
    total = tl.sum(count.to(tl.float64))
    centre = tl.sum((reference.to(tl.float64) + mean.to(tl.float64)) * count.to(tl.float64), 0) / total
    near = centre.to(mean.dtype)  # deviations from its rounded value, so that they need no float64
    rest = tl.where(count > 0, (reference - near[None, :]) + mean, 0.0)
    off = centre - near.to(tl.float64)
    m2 = tl.sum((m2 + rest * rest * count).to(tl.float64), 0) - total * off * off
    return centre, m2


@triton.jit
def batch_norm_act_stats_kernel(
    x_ptr,  # [rows, C], strides x_0, x_1, x_2 and x_c
    partial_mean_ptr,  # [splits, C], float64: partial mean
    partial_m2_ptr,  # [splits, C], float64: partial sum of squared deviations
    channels, rows, middle, inner,
    tiles,  # tiles per split
    x_0, x_1, x_2, x_c,
    ACC: tl.constexpr, INDEX: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Partial statistics of one split of the rows: Welford per lane, then one merge of the lanes.

    A lane takes its data relative to the first of them: what it rounds has the size of the deviations, not of the mean.
    """
    split, channel, keep = _program(channels, BLOCK_C)
    base = x_ptr + channel[None, :] * x_c
    row = split.to(INDEX) * tiles * BLOCK_R + tl.arange(0, BLOCK_R)
    reference = tl.zeros((BLOCK_R, BLOCK_C), ACC)
    mean = tl.zeros((BLOCK_R, BLOCK_C), ACC)
    m2 = tl.zeros((BLOCK_R, BLOCK_C), ACC)
    count = tl.zeros((BLOCK_R, 1), ACC)
    step = tl.full((), 0.0, ACC)
    for _ in range(tiles):
        inside = (row < rows)[:, None]
        mask = inside & keep[None, :]
        x = tl.load(base + _offsets(row, middle, inner, x_0, x_1, x_2), mask=mask, other=0.0).to(ACC)
        reference = tl.where(step == 0, x, reference)
        x -= reference
        delta = tl.where(mask, x - mean, 0.0)
        # only a split's last tile is partial: a lane that takes part has taken part in every tile before
        step += 1.0
        mean += delta * (1.0 / step)
        m2 += delta * (x - mean)
        count += tl.where(inside, 1.0, 0.0)
        row += BLOCK_R
    merged_mean, merged_m2 = _merge(reference, mean, m2, count)
    place = split.to(tl.int64) * channels + channel
    tl.store(partial_mean_ptr + place, merged_mean, mask=keep)
    tl.store(partial_m2_ptr + place, merged_m2, mask=keep)


@triton.jit
def batch_norm_act_stats_finish_kernel(
    partial_mean_ptr, partial_m2_ptr,  # [splits, C], float64, each
    mean_ptr, rstd_ptr,  # [C], each
    mean_low_ptr,  # [C] or None: what rounding took from mean
    running_mean_ptr,  # [C] or None, stride running_mean_c
    running_var_ptr,  # [C] or None, stride running_var_c
    momentum: tl.float64, eps: tl.float64, channels, rows, splits, rows_per_split, running_mean_c,
    running_var_c,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_C: tl.constexpr,  # BLOCK_SPLITS >= splits
):  # fmt: skip
    """Merge the splits; mean, rstd and the running statistics (the variance unbiased). In float64: once per channel."""
    _, channel, keep = _program(channels, BLOCK_C)
    split = tl.arange(0, BLOCK_SPLITS).to(tl.int64)
    place = split[:, None] * channels + channel[None, :]
    mask = (split < splits)[:, None] & keep[None, :]
    remaining = rows - split * rows_per_split
    count = tl.where(split < splits, tl.minimum(remaining, rows_per_split), 0).to(tl.float64)
    partial_mean = tl.load(partial_mean_ptr + place, mask=mask, other=0.0)
    partial_m2 = tl.load(partial_m2_ptr + place, mask=mask, other=0.0)
    mean, m2 = _merge(partial_mean, tl.zeros_like(partial_mean), partial_m2, count[:, None])
    m2 = tl.where(m2 < 0, 0.0, m2)  # rounding may leave a tiny negative; NaN stays
    total = tl.full((), rows, tl.float64)
    tl.store(mean_ptr + channel, mean, mask=keep)
    if mean_low_ptr is not None:
        low = mean - mean.to(mean_ptr.dtype.element_ty).to(tl.float64)
        tl.store(mean_low_ptr + channel, low, mask=keep)
    tl.store(rstd_ptr + channel, 1.0 / tl.sqrt(m2 / total + tl.full((), eps, tl.float64)), mask=keep)
    share = tl.full((), momentum, tl.float64)
    if running_mean_ptr is not None:
        updated(running_mean_ptr + channel * running_mean_c, mean, share, keep)
    if running_var_ptr is not None:
        updated(running_var_ptr + channel * running_var_c, m2 / (total - 1.0), share, keep)


@triton.jit
def batch_norm_act_apply_kernel(
    x_ptr,  # [rows, C], strides x_0, x_1, x_2 and x_c
    y_ptr,  # [rows, C], strides y_0, y_1, y_2 and y_c
    weight_ptr, bias_ptr,  # [C] or None, each
    mean_ptr, rstd_ptr,  # [C], each
    mean_low_ptr,  # [C] or None: mean is mean + mean_low
    negative_slope: tl.float64, channels, rows, middle, inner,
    x_0, x_1, x_2, x_c,
    y_0, y_1, y_2, y_c,
    ACTIVATION: tl.constexpr, INDEX: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """y = act((x - mean) * (rstd * weight) + bias), one tile per program."""
    ACC: tl.constexpr = mean_ptr.dtype.element_ty
    tile, channel, keep = _program(channels, BLOCK_C)
    row = tile.to(INDEX) * BLOCK_R + tl.arange(0, BLOCK_R)
    mask = (row < rows)[:, None] & keep[None, :]
    x_at = x_ptr + _offsets(row, middle, inner, x_0, x_1, x_2) + channel[None, :] * x_c
    y_at = y_ptr + _offsets(row, middle, inner, y_0, y_1, y_2) + channel[None, :] * y_c
    centred = tl.load(x_at, mask=mask, other=0.0).to(ACC) - _vector(mean_ptr, channel, keep, ACC)
    if mean_low_ptr is not None:
        centred -= _vector(mean_low_ptr, channel, keep, ACC)
    rstd = _vector(rstd_ptr, channel, keep, ACC)
    scale, shift = _affine(weight_ptr, bias_ptr, rstd, channel, keep, ACC)
    z = centred * scale + shift
    if ACTIVATION == RELU:
        z = tl.where(z < 0, 0.0, z)  # tl.maximum would lose NaN
    elif ACTIVATION == LEAKY_RELU:
        z = tl.where(z > 0, z, z * tl.full((), negative_slope, ACC))
    tl.store(y_at, z, mask=mask)


@triton.jit
def batch_norm_act_backward_reduce_kernel(
    dy_ptr,  # [rows, C], strides dy_0, dy_1, dy_2 and dy_c
    x_ptr,  # [rows, C], strides x_0, x_1, x_2 and x_c
    weight_ptr, bias_ptr,  # [C] or None, each
    mean_ptr, rstd_ptr,  # [C], each
    sum_weight_ptr,  # [splits, C], float64: partial sum of g * xhat
    sum_bias_ptr,  # [splits, C], float64: partial sum of g
    negative_slope: tl.float64, channels, rows, middle, inner,
    tiles,  # tiles per split
    dy_0, dy_1, dy_2, dy_c,
    x_0, x_1, x_2, x_c,
    ACTIVATION: tl.constexpr, INDEX: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Partial sums of the parameter gradients over one split of the rows; g is the gradient before the activation."""
    ACC: tl.constexpr = mean_ptr.dtype.element_ty
    split, channel, keep = _program(channels, BLOCK_C)
    mean = _vector(mean_ptr, channel, keep, ACC)
    rstd = _vector(rstd_ptr, channel, keep, ACC)
    scale, shift = _affine(weight_ptr, bias_ptr, rstd, channel, keep, ACC)
    slope = tl.full((), negative_slope, ACC)
    row = split.to(INDEX) * tiles * BLOCK_R + tl.arange(0, BLOCK_R)
    sum_weight = tl.zeros((BLOCK_R, BLOCK_C), ACC)
    sum_bias = tl.zeros((BLOCK_R, BLOCK_C), ACC)
    for _ in range(tiles):
        mask = (row < rows)[:, None] & keep[None, :]
        dy_at = dy_ptr + _offsets(row, middle, inner, dy_0, dy_1, dy_2) + channel[None, :] * dy_c
        x_at = x_ptr + _offsets(row, middle, inner, x_0, x_1, x_2) + channel[None, :] * x_c
        grad = tl.load(dy_at, mask=mask, other=0.0).to(ACC)
        centred = tl.load(x_at, mask=mask, other=0.0).to(ACC) - mean
        grad = _activation_backward(grad, centred * scale + shift, slope, ACTIVATION)
        sum_bias += grad
        sum_weight += grad * (centred * rstd)
        row += BLOCK_R
    place = split.to(tl.int64) * channels + channel
    tl.store(sum_weight_ptr + place, tl.sum(sum_weight.to(tl.float64), 0), mask=keep)
    tl.store(sum_bias_ptr + place, tl.sum(sum_bias.to(tl.float64), 0), mask=keep)


@triton.jit
def batch_norm_act_backward_finish_kernel(
    sum_weight_ptr, sum_bias_ptr,  # [splits, C], float64, each
    rstd_ptr,  # [C]
    grad_weight_ptr, grad_bias_ptr,  # [C], each
    per_centred_ptr,  # [C]: grad_weight * rstd / rows
    per_element_ptr,  # [C]: grad_bias / rows
    channels, rows, splits,
    BLOCK_SPLITS: tl.constexpr,
    BLOCK_C: tl.constexpr,  # BLOCK_SPLITS >= splits
):  # fmt: skip
    """Sum the splits; what the gradients take from each element in training. In float64: once per channel."""
    _, channel, keep = _program(channels, BLOCK_C)
    split = tl.arange(0, BLOCK_SPLITS)
    place = split.to(tl.int64)[:, None] * channels + channel[None, :]
    mask = (split < splits)[:, None] & keep[None, :]
    grad_weight = tl.sum(tl.load(sum_weight_ptr + place, mask=mask, other=0.0), 0)
    grad_bias = tl.sum(tl.load(sum_bias_ptr + place, mask=mask, other=0.0), 0)
    total = tl.full((), rows, tl.float64)
    rstd = tl.load(rstd_ptr + channel, mask=keep, other=0.0).to(tl.float64)
    tl.store(grad_weight_ptr + channel, grad_weight, mask=keep)
    tl.store(grad_bias_ptr + channel, grad_bias, mask=keep)
    tl.store(per_centred_ptr + channel, grad_weight * rstd / total, mask=keep)
    tl.store(per_element_ptr + channel, grad_bias / total, mask=keep)


@triton.jit
def batch_norm_act_backward_apply_kernel(
    dy_ptr,  # [rows, C], strides dy_0, dy_1, dy_2 and dy_c
    x_ptr,  # [rows, C], strides x_0, x_1, x_2 and x_c
    dx_ptr,  # [rows, C], strides dx_0, dx_1, dx_2 and dx_c
    weight_ptr, bias_ptr,  # [C] or None, each
    mean_ptr, rstd_ptr,  # [C], each
    per_centred_ptr, per_element_ptr,  # [C], each
    negative_slope: tl.float64, channels, rows, middle, inner,
    dy_0, dy_1, dy_2, dy_c,
    x_0, x_1, x_2, x_c,
    dx_0, dx_1, dx_2, dx_c,
    TRAINING: tl.constexpr, ACTIVATION: tl.constexpr, INDEX: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    """dx = rstd * weight * (g - per_element - (x - mean) * per_centred); in eval mode only the first term."""
    ACC: tl.constexpr = mean_ptr.dtype.element_ty
    tile, channel, keep = _program(channels, BLOCK_C)
    row = tile.to(INDEX) * BLOCK_R + tl.arange(0, BLOCK_R)
    mask = (row < rows)[:, None] & keep[None, :]
    dy_at = dy_ptr + _offsets(row, middle, inner, dy_0, dy_1, dy_2) + channel[None, :] * dy_c
    x_at = x_ptr + _offsets(row, middle, inner, x_0, x_1, x_2) + channel[None, :] * x_c
    dx_at = dx_ptr + _offsets(row, middle, inner, dx_0, dx_1, dx_2) + channel[None, :] * dx_c
    grad = tl.load(dy_at, mask=mask, other=0.0).to(ACC)
    centred = tl.load(x_at, mask=mask, other=0.0).to(ACC) - _vector(mean_ptr, channel, keep, ACC)
    rstd = _vector(rstd_ptr, channel, keep, ACC)
    scale, shift = _affine(weight_ptr, bias_ptr, rstd, channel, keep, ACC)
    grad = _activation_backward(grad, centred * scale + shift, tl.full((), negative_slope, ACC), ACTIVATION)
    if TRAINING:
        grad -= _vector(per_element_ptr, channel, keep, ACC)
        grad -= centred * _vector(per_centred_ptr, channel, keep, ACC)
    tl.store(dx_at, grad * scale, mask=mask)
