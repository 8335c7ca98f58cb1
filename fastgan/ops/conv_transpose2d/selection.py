"""Whether the compiled CPU kernels pay: two sums of a few terms, their time and torch's, from sizes alone.

The terms are what the work consists of (products, values copied, calls); the seconds per term in :data:`NATIVE` and
:data:`TORCH` come from ``python -m bench.fit_selection``, which measures both on random shapes.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

Pair = tuple[int, ...]
Terms = tuple[float, ...]

_LANES = 16  # floats of a panel, as the AVX2 kernels have it
_ROWS = 6
_FEW_CHANNELS, _MOST_COLUMNS = 8, 128  # few_columns() in csrc/conv_transpose2d/cpu.cpp


class Call(NamedTuple):
    """An op's arguments in numbers; ``cs`` and ``cb`` are the channels per group of the small and the big image, and
    ``in_place`` says whether the small image, the big one and the weight are float32 with channels innermost."""

    op: str
    batch: int
    groups: int
    cs: int
    cb: int
    small: Pair
    big: Pair
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    in_place: tuple[bool, bool, bool]


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def _meetings(small: int, big: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """How many pairs of a pixel and a tap lie inside the image, along one axis."""
    count = 0
    for k in range(kernel):
        shift = k * dilation - padding  # pixel i meets i * stride + shift
        count += max(min(small - 1, (big - 1 - shift) // stride) - max(0, -(shift // stride)) + 1, 0)
    return count


def _by_columns(call: Call) -> bool:
    if call.cb >= _FEW_CHANNELS or call.cs < 4 or call.cb * call.kernel[0] * call.kernel[1] > _MOST_COLUMNS:
        return False
    axes = zip(call.small, call.big, call.kernel, call.stride, call.padding, call.dilation, strict=True)
    return all(p >= 0 and (i - 1) * s + (k - 1) * d + 1 - p >= o for i, o, k, s, p, d in axes)


def native_terms(call: Call) -> tuple[str, Terms]:
    """(the method, its terms): calls, groups, products with padded panels, runs of them, values packed, values copied
    between layouts."""
    cs, cb = call.cs, call.cb
    taps, pixels = call.kernel[0] * call.kernel[1], call.small[0] * call.small[1]
    big_pixels = call.big[0] * call.big[1]
    images = call.batch * call.groups
    small_values, big_values, weights = images * pixels * cs, images * big_pixels * cb, call.groups * cs * cb * taps
    copied = (0 if call.in_place[0] else small_values) + (0 if call.in_place[1] else big_values)
    if _by_columns(call):
        columns = taps * cb
        if call.op == "conv2d_weight":
            products = images * pixels * _up(cs, _ROWS) * _up(columns, _LANES)
        elif call.op == "conv2d":
            products = images * pixels * columns * _up(cs, _LANES)
        else:
            products = images * pixels * cs * _up(columns, _LANES)
        unfolded = images * pixels * (_up(columns, _LANES) + 4 * call.kernel[0])
        return f"{call.op} by columns", (1, call.groups, products, unfolded, weights, copied)
    met = images
    for axis in zip(call.small, call.big, call.kernel, call.stride, call.padding, call.dilation, strict=True):
        met *= _meetings(*axis)
    if call.op == "conv2d_weight":
        rows, panels = _up(cs, _ROWS) // _ROWS, _up(cb, _LANES) // _LANES
        packed = images * (pixels * rows * _ROWS + big_pixels * panels * _LANES)
        return "conv2d_weight", (1, call.groups, met * rows * panels * _ROWS * _LANES, packed, weights, copied)
    inputs, outputs = (cs, cb) if call.op == "conv_transpose2d" else (cb, cs)
    panels = _up(outputs, _LANES) // _LANES
    packed = call.groups * inputs * taps * panels * _LANES
    return call.op, (1, call.groups, met * inputs * panels * _LANES, met * panels, packed, copied)


def torch_terms(call: Call) -> tuple[str, Terms]:
    """(the method, its terms): calls, images times groups, products with channels padded to 8, values, weights."""
    taps, pixels = call.kernel[0] * call.kernel[1], call.small[0] * call.small[1]
    images = call.batch * call.groups
    values = images * (pixels * call.cs + call.big[0] * call.big[1] * call.cb)
    products = images * pixels * taps * call.cs * call.cb
    padded = images * pixels * taps * _up(call.cs, 8) * _up(call.cb, 8)
    weights = call.groups * call.cs * call.cb * taps
    layout = "NHWC" if call.in_place[0] and call.in_place[1] else "NCHW"
    return f"{call.op} {layout}", (1, images, products, padded, values, weights)
