"""The two gradients of a few channels beside a link's input, from one look at the gradient of its output."""

import triton
import triton.language as tl

from fastgan.ops.common.triton_epilogue import rounded
from fastgan.ops.common.triton_operands import taken, vectors


@triton.jit
def beside_gradients_kernel(
    grad_ptr,  # [N, C, grad_h, grad_w]: the gradient of the link's output
    before,  # what makes it the gradient before the batch norm: triton_operands
    beside_ptr,  # [N, B, h, w]
    weight_ptr,  # the part of the weight for these channels: B, C, KH, KW in any order
    grad_beside_ptr,  # [N, B, h, w]
    partial_ptr,  # [tiles, KH, KW, B, C]: the gradient of that part, of which each tile has a share, in ACC
    rows, channels, c, h, w, grad_h, grad_w,
    gr_n, gr_c, gr_h, gr_w,
    be_n, be_c, be_h, be_w,
    wt_b, wt_c, wt_h, wt_w,
    out_n, out_c, out_h, out_w,
    FACTOR_H: tl.constexpr, FACTOR_W: tl.constexpr, SHIFT_H: tl.constexpr, SHIFT_W: tl.constexpr,
    STEP_H: tl.constexpr, STEP_W: tl.constexpr, DIVISOR_H: tl.constexpr, DIVISOR_W: tl.constexpr,
    KH: tl.constexpr, KW: tl.constexpr, UNROLL: tl.constexpr,
    ACC: tl.constexpr, UPCAST: tl.constexpr, OFFSET: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_M pixels of one channel beside, image after image, which with tap k meet pixel (i * FACTOR +
    SHIFT + k * STEP) / DIVISOR of the gradient where that is whole and inside. Taps overlap, so most of what one tap
    loads is in the first cache for the next ones."""
    pid = tl.program_id(0)
    tile, which = (pid // channels).to(OFFSET), (pid % channels).to(OFFSET)
    m = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    pixel = m < rows
    n, i_h, i_w = m // (h * w), m // w % h, m % w
    b = tl.load(beside_ptr + (n * be_n + which * be_c + i_h * be_h + i_w * be_w), mask=pixel, other=0.0).to(ACC)
    acc = tl.zeros((BLOCK_M,), ACC)
    for first in range(0, c, BLOCK_C):
        channel = (first + tl.arange(0, BLOCK_C)).to(OFFSET)
        kept = channel < c
        by_channel = vectors(before, channel[None, :], kept[None, :], ACC)
        for k_h in range(0, KH):
            at_h = i_h * FACTOR_H + SHIFT_H + k_h * STEP_H
            o_h = at_h // DIVISOR_H
            row = pixel & (at_h >= 0) & (at_h % DIVISOR_H == 0) & (o_h < grad_h)
            for k_w in tl.range(0, KW, loop_unroll_factor=UNROLL):
                at_w = i_w * FACTOR_W + SHIFT_W + k_w * STEP_W
                o_w = at_w // DIVISOR_W
                inside = row & (at_w >= 0) & (at_w % DIVISOR_W == 0) & (o_w < grad_w)
                seen = inside[:, None] & kept[None, :]
                at = (n * gr_n + o_h * gr_h + o_w * gr_w)[:, None] + (channel * gr_c)[None, :]
                grad = tl.load(grad_ptr + at, mask=seen, other=0.0)
                grad = taken(grad, before, by_channel, at, seen, 0.0, 0, ACC, UPCAST).to(ACC)
                to_weight = which * wt_b + channel * wt_c + k_h * wt_h + k_w * wt_w
                weight = tl.load(weight_ptr + to_weight, mask=kept, other=0.0).to(ACC)
                acc += tl.sum(grad * weight[None, :], 1)
                share = tl.sum(grad * b[:, None], 0)
                place = ((tile * KH + k_h) * KW + k_w) * channels + which
                tl.store(partial_ptr + (place * c + channel), share, mask=kept)
    to = n * out_n + which * out_c + i_h * out_h + i_w * out_w
    tl.store(grad_beside_ptr + to, rounded(acc, grad_beside_ptr, UPCAST), mask=pixel)
