"""A kernel that stores what :func:`fastgan.ops.conv_transpose2d.triton_taps.places` returns."""

import triton
import triton.language as tl

from fastgan.ops.conv_transpose2d.triton_taps import places


@triton.jit
def places_kernel(output_ptr, first, count, batch, rows, columns):
    """[lowest row, highest row, lowest column, highest column] of the places of these pixels, counted in 64 bits."""
    low_h, high_h, low_w, high_w = places(tl.full((), first, tl.int64), count, batch, rows, columns)
    tl.store(output_ptr, low_h)
    tl.store(output_ptr + 1, high_h)
    tl.store(output_ptr + 2, low_w)
    tl.store(output_ptr + 3, high_w)
