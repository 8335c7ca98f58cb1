"""What happens to a kernel's sums before they are stored: bias, activation, the merge of split sums."""

import triton
import triton.language as tl

# fastgan.ops.common.activation.Activation; a test compares them.
RELU = tl.constexpr(1)
LEAKY_RELU = tl.constexpr(2)
TANH = tl.constexpr(3)


@triton.jit
def _tanh(x):
    """tanh in float32, to 2 ulp (Moshier, Cephes, tanhf): a polynomial near 0, where 1 - exp(-2 |x|) cancels."""
    square = x * x
    near = -5.70498872745e-3 * square + 2.06390887954e-2
    near = ((near * square - 5.37397155531e-2) * square + 1.33314422036e-1) * square - 3.33332819422e-1
    near = near * square * x + x
    size = tl.abs(x)
    small = tl.exp(-2.0 * size)
    far = (1.0 - small) / (1.0 + small)
    return tl.where(size < 0.625, near, tl.where(x < 0, -far, far))


@triton.jit
def activated(x, negative_slope, ACTIVATION: tl.constexpr):
    """The activation of float32 or float64 values (tanh: float32), torch's at NaN: all of them pass it on."""
    if ACTIVATION == RELU:
        x = tl.where(x <= 0, 0.0, x)
    elif ACTIVATION == LEAKY_RELU:
        x = tl.where(x > 0, x, x * tl.full((), negative_slope, x.dtype))
    elif ACTIVATION == TANH:
        x = _tanh(x)
    return x


@triton.jit
def finished(acc, bias_ptr, channel, channels, negative_slope, ACTIVATION: tl.constexpr):
    """The sums with the bias and the activation; channel: [BLOCK_N] of the bias, those of this group < channels."""
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + channel, mask=channel < channels, other=0.0).to(acc.dtype)[None, :]
    return activated(acc, negative_slope, ACTIVATION)


@triton.jit
def rounded(x, pointer, UPCAST: tl.constexpr):
    """``x`` in the type of what the pointer points to."""
    return narrowed(x, pointer.dtype.scalar.element_ty, UPCAST)


@triton.jit
def narrowed(x, TYPE: tl.constexpr, UPCAST: tl.constexpr):
    """``x`` in this type, rounded to nearest even. UPCAST: the interpreter, which would cut a bfloat16 off, so its bits
    are rounded here."""
    if UPCAST and TYPE.is_bf16():
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
        x = tl.where(x == x, bits.to(tl.float32, bitcast=True), x)
    return x.to(TYPE)


@triton.jit
def finish_kernel(
    partial_ptr,  # splits copies of the output, one after the other, in the type of the sums
    bias_ptr,  # [channels] or None
    output_ptr,
    negative_slope: tl.float64, size, splits, channels, inner,
    ACTIVATION: tl.constexpr, UPCAST: tl.constexpr, OFFSET: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The sum of the splits, in the same order every time, with bias and activation; ``inner`` elements in memory share
    a channel. One program: BLOCK elements."""
    i = tl.program_id(0).to(OFFSET) * BLOCK + tl.arange(0, BLOCK)
    row = tl.arange(0, BLOCK_SPLITS)
    total = tl.zeros((BLOCK,), partial_ptr.dtype.element_ty)
    for first in range(0, splits, BLOCK_SPLITS):
        split = first + row
        part = tl.load(
            partial_ptr + (split.to(OFFSET) * size)[:, None] + i[None, :],
            mask=(split < splits)[:, None] & (i < size)[None, :], other=0.0,
        )  # fmt: skip
        total += tl.sum(part, 0)
    if bias_ptr is not None:
        total += tl.load(bias_ptr + i // inner % channels, mask=i < size, other=0.0).to(total.dtype)
    total = activated(total, negative_slope, ACTIVATION)
    tl.store(output_ptr + i, rounded(total, output_ptr, UPCAST), mask=i < size)
