"""Where a program is, which taps its tile of pixels meets, the order in which the implicit GEMMs take them, and the
channels beside those of a matrix product: a few, of another tensor, taken one by one."""

import triton
import triton.language as tl


@triton.jit
def place_of_program(m_tiles, n_tiles, groups, OFFSET: tl.constexpr):
    """(tile of rows, tile of columns, group, the rest) of this program; neighbours have the same columns."""
    pid = tl.program_id(0)
    row, pid = pid % m_tiles, pid // m_tiles
    column, pid = pid % n_tiles, pid // n_tiles
    return row, column, (pid % groups).to(OFFSET), pid // groups


@triton.jit
def first_tap(phase, STRIDE: tl.constexpr, PAD: tl.constexpr, DILATION: tl.constexpr, K: tl.constexpr,
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
def places(first, count, batch, rows, columns):
    """(lowest, highest) row and column of the places that pixels first, ..., first + count - 1 have."""
    low, high = first // batch, tl.minimum((first + count - 1) // batch, tl.full((), rows, first.dtype) * columns - 1)
    low_h, high_h = low // columns, high // columns
    low_w = tl.where(low_h == high_h, low % columns, 0)
    high_w = tl.where(low_h == high_h, high % columns, columns - 1)
    return low_h, high_h, low_w, high_w


@triton.jit
def taps_down(low, high, size, count, STEP: tl.constexpr):
    """(first, how many) of the taps t < count for which some x - t * STEP with low <= x <= high is in [0, size)."""
    first = tl.maximum(low - size + STEP, 0) // STEP
    end = tl.minimum(tl.maximum(high + STEP, 0) // STEP, count)
    return first, tl.maximum(end - first, 0)


@triton.jit
def taps_up(low, high, size, count, STEP: tl.constexpr):
    """The same for x + t * STEP."""
    first = tl.maximum(STEP - 1 - high, 0) // STEP
    end = tl.minimum(tl.maximum(size - low + STEP - 1, 0) // STEP, count)
    return first, tl.maximum(end - first, 0)


@triton.jit
def split_steps(split, splits, taps, k_tiles):
    """(first step, end) of this split of taps * k_tiles steps, and the (tap, tile of channels) of the first one."""
    steps = taps * k_tiles
    each = tl.cdiv(steps, splits)
    first = tl.minimum(split * each, steps)
    return first, tl.minimum(first + each, steps), first // k_tiles, first % k_tiles


@triton.jit
def next_step(source, channels, tap_h, tap_w, skip_w, count_w, BLOCK_K: tl.constexpr):
    """(channels, tap row, tap column) of the step after: all channels of a tap, then the next tap."""
    source += BLOCK_K
    over = source >= channels
    source = tl.where(over, 0, source)
    tap_w += over.to(tl.int32)
    over = tap_w >= skip_w + count_w
    return source, tap_h + over.to(tl.int32), tl.where(over, skip_w, tap_w)


@triton.jit
def with_beside(acc, beside, weights, n, pixel, rows, columns, OFFSET: tl.constexpr, ACC: tl.constexpr):
    """acc, and to it the product of the channels ``beside`` (the tensor, how many channels it has, its strides), if
    there are any. weights: (where the first of them and the kernel's first tap are by output channel, the strides from
    channel to channel, row to row and column to column, which output channels there are). rows, columns: (where the
    pixels are at tap 0 and how far the next tap is, the image's size, the first tap and how many, the kernel's row at
    tap 0 and how far the next one is)."""
    if beside is not None:
        image_ptr, channels, image_n, image_c, image_h, image_w = beside
        weight_ptr, weight_c, weight_h, weight_w, kept = weights
        at_h, move_h, size_h, skip_h, count_h, first_h, step_h = rows
        at_w, move_w, size_w, skip_w, count_w, first_w, step_w = columns
        for i in range(0, count_h * count_w * channels):
            tap, c = i // channels, (i % channels).to(OFFSET)
            tap_h, tap_w = skip_h + tap // count_w, skip_w + tap % count_w
            i_h, i_w = at_h + tap_h * move_h, at_w + tap_w * move_w
            inside = pixel & (i_h >= 0) & (i_h < size_h) & (i_w >= 0) & (i_w < size_w)
            x = tl.load(image_ptr + (n * image_n + c * image_c + i_h * image_h + i_w * image_w), mask=inside, other=0.0)
            k_h, k_w = (first_h + tap_h * step_h).to(OFFSET), (first_w + tap_w * step_w).to(OFFSET)
            weight = tl.load(weight_ptr + (c * weight_c + k_h * weight_h + k_w * weight_w), mask=kept, other=0.0)
            acc += x.to(ACC)[:, None] * weight.to(ACC)[None, :]
    return acc
