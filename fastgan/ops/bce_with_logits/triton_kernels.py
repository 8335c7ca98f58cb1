"""Triton kernels of the sigmoid-BCE loss: value and gradient in one pass, the sum of the partial losses, backward; and
the discriminator's loss, which is that of two tensors at once.

All tensors are flat: the launcher has brought them into one dense memory order. Elements are computed in ACC (float32,
float64 where an operand is float64); loads are converted at once, stores convert back. Losses are added in float64 once
they leave their lane.
"""

import triton
import triton.language as tl


@triton.jit
def _exp_negative(a, ACC: tl.constexpr):
    """exp(-a) for a >= 0; NaN stays NaN.

    float32: tl.exp is ex2.approx of a rounded product, off by about a / 2 ulp, so the argument is reduced first:
    -a = k ln2 + r with |r| <= ln2 / 2, then exp(r) by its series (the first term left out is 5e-9) and 2^k in two
    factors, so that results below the normal range come out denormal and not zero.
    """
    if ACC.is_fp64():
        return tl.exp(-a)
    else:
        a = tl.where(a > 128.0, 128.0, a)  # exp(-104) is already 0; tl.minimum would lose NaN
        shifted = 12582912.0 - a * 1.4426950408889634  # 1.5 * 2^23: adding it rounds to an integer, in the last bits
        k = shifted - 12582912.0
        r = (-a - k * 0.693359375) + k * 2.12194440e-4  # ln2 in two parts; the product with the first is exact
        p = r * (1 / 5040) + 1 / 720
        p = p * r + 1 / 120
        p = p * r + 1 / 24
        p = p * r + 1 / 6
        p = p * r + 0.5
        p = p * r + 1.0
        p = p * r + 1.0
        exponent = shifted.to(tl.int32, bitcast=True) - 0x4B400000
        half = exponent >> 1
        return p * _power_of_2(half) * _power_of_2(exponent - half)


@triton.jit
def _power_of_2(k):
    """2^k as float32 for int32 -127 < k < 128."""
    return ((k + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _log1p(y, ACC: tl.constexpr):
    """log(1 + y) for 0 <= y <= 1 as 2 atanh(y / (2 + y)), whose series converges by 1/9 per term.

    tl.log is no help in float32: on the GPU its error near 1 is absolute, which log1p for small y cannot use.
    """
    TERMS: tl.constexpr = 17 if ACC.is_fp64() else 8
    inverse = 1.0 / (2.0 + y)
    s = y * inverse
    square = s * s
    series = tl.zeros_like(y)
    for k in tl.static_range(TERMS):
        series = series * square + 1.0 / (2 * (TERMS - k) - 1)
    return y * (2.0 * inverse) * series


@triton.jit
def _narrow(value, ptr):
    """float64 passes through float32 on its way to 16 bits: the interpreter cannot convert it to bfloat16 at once."""
    if ptr.dtype.element_ty.is_fp64():
        return value
    else:
        return value.to(tl.float32)


@triton.jit
def _store_sum(place, values, divisor):
    """The sum of the values over divisor, in float64 until it is stored."""
    tl.store(place, _narrow(tl.sum(values.to(tl.float64), 0) / tl.full((), divisor, tl.float64), place))


@triton.jit
def _element(x, t, p, ACC: tl.constexpr):
    """(1 - t) x + (1 + (p - 1) t) (max(-x, 0) + log1p(exp(-|x|))) and its derivative by x.

    In this form infinite logits give what torch gives: NaN where 0 * inf or inf - inf occurs.
    """
    small = _exp_negative(tl.abs(x), ACC)  # exp(-|x|)
    softplus = tl.where(x < 0, -x, 0.0) + _log1p(small, ACC)
    loss = (1.0 - t) * x + (1.0 + (p - 1.0) * t) * softplus
    likely = 1.0 / (1.0 + small)  # sigmoid(|x|)
    unlikely = small * likely  # sigmoid(-|x|); subtracting from 1 would lose it
    positive = tl.where(x >= 0, likely, unlikely)
    negative = tl.where(x >= 0, unlikely, likely)
    return loss, (1.0 - t) * positive - p * t * negative


@triton.jit
def bce_with_logits_kernel(
    input_ptr,  # [size]
    target_ptr,  # [size] or None: target_value
    weight_ptr,  # [size] or None
    pos_weight_ptr,  # [size] or None
    loss_ptr,  # [size] or None
    gradient_ptr,  # [size] or None
    sum_ptr,  # [programs] or None: sum of the program's losses / divisor
    target_value: tl.float64,
    divisor: tl.float64,
    size,
    tiles,  # tiles per program
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Losses, their sum, and their derivatives by the input; of a weight both are that many times as much."""
    offset = tl.program_id(0).to(tl.int64) * tiles * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), ACC)
    for _ in range(tiles):
        mask = offset < size
        x = tl.load(input_ptr + offset, mask=mask, other=0.0).to(ACC)
        if target_ptr is None:
            t = tl.full((BLOCK,), target_value, ACC)
        else:
            t = tl.load(target_ptr + offset, mask=mask, other=0.0).to(ACC)
        p = tl.full((BLOCK,), 1.0, ACC)
        if pos_weight_ptr is not None:
            p = tl.load(pos_weight_ptr + offset, mask=mask, other=1.0).to(ACC)
        loss, gradient = _element(x, t, p, ACC)
        if weight_ptr is not None:
            w = tl.load(weight_ptr + offset, mask=mask, other=0.0).to(ACC)
            loss *= w
            gradient *= w
        if loss_ptr is not None:
            tl.store(loss_ptr + offset, _narrow(loss, loss_ptr), mask=mask)
        if gradient_ptr is not None:
            tl.store(gradient_ptr + offset, _narrow(gradient, gradient_ptr), mask=mask)
        total += tl.where(mask, loss, 0.0)
        offset += BLOCK
    if sum_ptr is not None:
        _store_sum(sum_ptr + tl.program_id(0), total, divisor)


@triton.jit
def bce_with_logits_finish_kernel(
    sum_ptr,  # [programs], float64
    loss_ptr,  # []
    divisor: tl.float64,
    programs,
    BLOCK: tl.constexpr,  # >= programs
):
    """loss = sum of the partial sums / divisor."""
    program = tl.arange(0, BLOCK)
    _store_sum(loss_ptr, tl.load(sum_ptr + program, mask=program < programs, other=0.0), divisor)


@triton.jit
def bce_with_logits_backward_kernel(
    gradient_ptr,  # [size]
    grad_output_ptr,  # [size], or [] if SCALAR
    grad_input_ptr,  # [size]
    scale: tl.float64,
    size,
    ACC: tl.constexpr,
    SCALAR: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """grad_input = gradient * (grad_output * scale), the product in ACC: scale = 1 / N can be too small for float16."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offset < size
    gradient = tl.load(gradient_ptr + offset, mask=mask, other=0.0).to(ACC)
    if SCALAR:
        grad_output = tl.load(grad_output_ptr).to(ACC)
    else:
        grad_output = tl.load(grad_output_ptr + offset, mask=mask, other=0.0).to(ACC)
    tl.store(grad_input_ptr + offset, gradient * (grad_output * tl.full((), scale, ACC)), mask=mask)


@triton.jit
def _share_of_mean(logits_ptr, gradient_ptr, target, per_element, size, tiles, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """What the program's tiles add to the mean loss against that target, in float64; stores their gradients."""
    offset = tl.program_id(0).to(tl.int64) * tiles * BLOCK + tl.arange(0, BLOCK)
    t = tl.full((BLOCK,), target, ACC)
    total = tl.zeros((BLOCK,), ACC)
    for _ in range(tiles):
        mask = offset < size
        x = tl.load(logits_ptr + offset, mask=mask, other=0.0).to(ACC)
        loss, gradient = _element(x, t, tl.full((BLOCK,), 1.0, ACC), ACC)
        if gradient_ptr is not None:
            tl.store(gradient_ptr + offset, _narrow(gradient, gradient_ptr), mask=mask)
        total += tl.where(mask, loss, 0.0)
        offset += BLOCK
    return tl.sum(total.to(tl.float64), 0) * tl.full((), per_element, tl.float64)


@triton.jit
def discriminator_loss_kernel(
    real_ptr,  # [real_size]
    fake_ptr,  # [fake_size]
    real_gradient_ptr,  # [real_size] or None
    fake_gradient_ptr,  # [fake_size] or None
    sum_ptr,  # [programs]: what each program contributes to the loss
    real_target: tl.float64,
    per_real: tl.float64,  # 1 / real_size
    per_fake: tl.float64,
    real_size,
    fake_size,
    tiles,  # tiles per program, of each of the two
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The mean loss of the real logits against real_target plus that of the fake ones against 0. Neither is empty."""
    real = _share_of_mean(real_ptr, real_gradient_ptr, real_target, per_real, real_size, tiles, ACC, BLOCK)
    fake = _share_of_mean(fake_ptr, fake_gradient_ptr, 0.0, per_fake, fake_size, tiles, ACC, BLOCK)
    place = sum_ptr + tl.program_id(0)
    tl.store(place, _narrow(real + fake, place))


@triton.jit
def _scale_tile(gradient_ptr, factor, output_ptr, size, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """The program's tile of output = gradient * factor."""
    offset = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offset < size
    gradient = tl.load(gradient_ptr + offset, mask=mask, other=0.0).to(ACC)
    tl.store(output_ptr + offset, gradient * factor, mask=mask)


@triton.jit
def discriminator_loss_backward_kernel(
    real_gradient_ptr,  # [real_size]
    fake_gradient_ptr,  # [fake_size]
    grad_output_ptr,  # []
    real_output_ptr,  # [real_size]
    fake_output_ptr,  # [fake_size]
    per_real: tl.float64,  # 1 / real_size
    per_fake: tl.float64,
    real_size,
    fake_size,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each output is its gradient * (grad_output / its size), in ACC: 1 / N can be too small for float16."""
    grad_output = tl.load(grad_output_ptr).to(ACC)
    real_factor, fake_factor = grad_output * tl.full((), per_real, ACC), grad_output * tl.full((), per_fake, ACC)
    _scale_tile(real_gradient_ptr, real_factor, real_output_ptr, real_size, ACC, BLOCK)
    _scale_tile(fake_gradient_ptr, fake_factor, fake_output_ptr, fake_size, ACC, BLOCK)
