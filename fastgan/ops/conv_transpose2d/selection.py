"""Whether the compiled CPU kernels pay: two sums of a few terms, their time and torch's, from sizes alone.

The terms are what the work consists of (products, values copied, calls); the seconds per term in :data:`NATIVE` and
:data:`TORCH` come from ``python -m bench.fit_selection``, which measures both on random shapes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fastgan.ops.conv_transpose2d.geometry import meetings

Pair = tuple[int, ...]
Terms = tuple[float, ...]

_LANES = 16  # floats of a panel, as the AVX2 kernels have it
_ROWS = 6
_FEW_CHANNELS, _MOST_COLUMNS = 8, 128  # few_columns() in csrc/conv_transpose2d/method.h
_MOST_SCRATCH = 1 << 18  # kMostColumns and kMostImage there
_FEW_PIXELS = 16  # kFewPixels there


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


def _stamps_fit(call: Call) -> bool:
    axes = list(zip(call.small, call.big, call.kernel, call.stride, call.padding, call.dilation, strict=True))
    stamps = [(i - 1) * s + (k - 1) * d + 1 for i, _, k, s, _, d in axes]
    reached = all(p >= 0 and stamp - p >= o for stamp, (_, o, _, _, p, _) in zip(stamps, axes, strict=True))
    return reached and math.prod(stamps) * call.cb <= _MOST_SCRATCH


def _by_columns(call: Call) -> bool:
    columns = call.cb * call.kernel[0] * call.kernel[1]
    if call.cb >= _FEW_CHANNELS or call.cs < 4 or columns > _MOST_COLUMNS:
        return False
    return math.prod(call.small) * _up(columns, 32) <= _MOST_SCRATCH and _stamps_fit(call)


def _streamed(call: Call) -> bool:
    """few_pixels() in csrc/conv_transpose2d/method.h, for a weight whose taps or channels are neighbours."""
    pixels, columns = call.batch * math.prod(call.small), call.cb * call.kernel[0] * call.kernel[1]
    few = call.op == "conv_transpose2d" and pixels <= _FEW_PIXELS and columns % 16 == 0
    return few and pixels * columns <= _MOST_SCRATCH and _stamps_fit(call)


_PLACES = {"conv2d": "conv_transpose2d", "conv_transpose2d": "conv2d", "conv2d_weight": "conv2d_weight"}


def _exchanged(call: Call) -> Call | None:
    """The call that runs where the images change places (exchange_pays() in csrc/conv_transpose2d/method.h)."""
    if call.stride != (1, 1) or call.groups > 1 or call.cs >= _FEW_CHANNELS or call.cb < _FEW_CHANNELS:
        return None
    if _by_columns(call):
        return None
    spans = zip(call.kernel, call.padding, call.dilation, strict=True)
    other = call._replace(
        op=_PLACES[call.op],
        cs=call.cb,
        cb=call.cs,
        small=call.big,
        big=call.small,
        padding=tuple(d * (k - 1) - p for k, p, d in spans),
        in_place=(call.in_place[1], call.in_place[0], call.in_place[2]),
    )
    return other if _by_columns(other) else None


def _by_winograd(call: Call) -> bool:
    """winograd_pays(), winograd_image_pays() and winograd_weight_pays() in csrc/conv_transpose2d/method.h."""
    fits = call.kernel == (4, 4) and call.stride == (2, 2) and call.padding == call.dilation == (1, 1)
    small, big = math.prod(call.small), math.prod(call.big)
    fits = fits and min(call.cs, call.cb) >= 16 and max(call.cs, call.cb) <= 512
    fits = fits and max(small * call.cs, big * call.cb) <= _MOST_SCRATCH
    fits = fits and min(call.small) >= (5 if call.op == "conv2d" else 4)
    if call.op == "conv2d_weight":
        return fits and call.batch * small >= 64 and (small <= 1 << 10 or (call.in_place[0] and call.in_place[1]))
    side = max(*call.small, *((o + 1) // 2 for o in call.big))
    return fits and call.batch * small >= 256 and side <= 256 and small <= 1 << 10 and small * call.cs <= 3 << 16


def native_terms(call: Call) -> tuple[str, Terms]:
    """(the method, its terms): calls, groups, products with padded panels, runs of them or values unfolded, values
    packed, values copied between layouts; of the direct image maps also values stored, and rows of a panel's part."""
    call = _exchanged(call) or call
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
    if _streamed(call):
        columns = images * pixels * taps * cb
        return "conv_transpose2d streamed", (1, call.groups, columns * cs, columns, weights, copied)
    met = images
    if _by_winograd(call):
        met *= 36 * _up(call.small[0], 2) * _up(call.small[1], 2) // 4
    else:
        for axis in zip(call.small, call.big, call.kernel, call.stride, call.padding, call.dilation, strict=True):
            met *= meetings(*axis)
    if call.op == "conv2d_weight":
        rows, panels = _up(cs, _ROWS) // _ROWS, _up(cb, _LANES) // _LANES
        packed = images * (pixels * rows * _ROWS + big_pixels * panels * _LANES)
        return "conv2d_weight", (1, call.groups, met * rows * panels * _ROWS * _LANES, packed, weights, copied)
    inputs, outputs = (cs, cb) if call.op == "conv_transpose2d" else (cb, cs)
    panels = _up(outputs, _LANES) // _LANES
    packed = call.groups * inputs * taps * panels * _LANES
    stored = images * (big_pixels if call.op == "conv_transpose2d" else pixels)
    partial = stored * panels if outputs % _LANES else 0
    products = met * inputs * panels * _LANES
    return call.op, (1, call.groups, products, met * panels, packed, copied, stored * outputs, partial)


def torch_terms(call: Call) -> tuple[str, Terms]:
    """(the method, its terms): calls, images times groups, products, those with channels padded to 8, values, weights.
    torch has code of its own for groups, for 1x1 kernels and for dilation."""
    taps, pixels = call.kernel[0] * call.kernel[1], call.small[0] * call.small[1]
    images = call.batch * call.groups
    values = images * (pixels * call.cs + call.big[0] * call.big[1] * call.cb)
    products = images * pixels * taps * call.cs * call.cb
    padded = images * pixels * taps * _up(call.cs, 8) * _up(call.cb, 8)
    weights = call.groups * call.cs * call.cb * taps
    if call.groups > 1:
        kind = "depthwise" if call.cs == call.cb == 1 else "grouped"
    else:
        kind = "1x1" if taps == 1 else "dilated" if max(call.dilation) > 1 else "plain"
    layout = "NHWC" if call.in_place[0] and call.in_place[1] else "NCHW"
    return f"{call.op} {layout} {kind}", (1, images, products, padded, values, weights)


#: Native is chosen where it is expected to take less than this share of torch's time, which is hard to foresee because
#: torch has many methods. Where native does little but multiply (see :func:`_filled`) it runs at the processor's speed,
#: and a bad estimate of torch's time must not keep it from being chosen.
MARGIN, FILLED_MARGIN = 0.8, 1.33
#: The same where the images change places, except at 1x1: torch takes up to seven times what is expected of it there,
#: and was the faster one in 1 of 24 measurements, by a tenth.
EXCHANGED_MARGIN = 2.5


def _useful(call: Call, all_taps: bool) -> int:
    """Products without those of the panels' padding."""
    count = call.batch * call.groups * call.cs * call.cb
    if all_taps:
        return count * call.small[0] * call.small[1] * call.kernel[0] * call.kernel[1]
    for axis in zip(call.small, call.big, call.kernel, call.stride, call.padding, call.dilation, strict=True):
        count *= meetings(*axis)
    return count


def _filled(call: Call, padded: float, share: float) -> bool:
    """Whether native does little but multiply: full panels, and half of its time or more. Groups and 1x1 kernels are
    what torch is good at."""
    if call.groups > 1 or call.kernel == (1, 1) or share < 0.5:
        return False
    call = _exchanged(call) or call
    return _useful(call, _by_columns(call) or _streamed(call)) >= 0.8 * padded


def gain(call: Call, native: Mapping[str, Sequence[float]], torch: Mapping[str, Sequence[float]]) -> float:
    """Seconds that native is expected to save, less a margin, with seconds per term given by method; negative where it
    loses."""
    method, terms = native_terms(call)
    parts = [seconds * count for seconds, count in zip(native[method], terms, strict=True)]
    ours = sum(parts)
    method, others = torch_terms(call)
    theirs = sum(seconds * count for seconds, count in zip(torch[method], others, strict=True))
    if _exchanged(call) is not None and call.kernel != (1, 1):
        return theirs * EXCHANGED_MARGIN - ours
    return theirs * (FILLED_MARGIN if _filled(call, terms[2], parts[2] / ours) else MARGIN) - ours


@functools.lru_cache(maxsize=1 << 14)
def pays(call: Call) -> bool:
    """Whether native is expected to be faster than torch; remembered, because a network repeats its calls."""
    return gain(call, NATIVE, TORCH) > 0


#: Seconds that a convolution of ours takes beside its op, forward and for each gradient: checks, the choice, and the
#: Python of its autograd Function, which torch's own op does not have.
HOST_FORWARD, HOST_GRADIENT = 6e-5, 8e-5


def pays_whole(call: Call, gradients: tuple[str, ...]) -> bool:
    """Whether native is expected to pay in a call and those ops of its backward that ``gradients`` names, together."""
    ops = (call, *(call._replace(op=op) for op in gradients))
    return pays_for_python(sum(max(gain(op, NATIVE, TORCH), 0) for op in ops), len(gradients))


def pays_for_python(saved: float, gradients: int) -> bool:
    """Whether so many seconds saved, in a call and so many ops of its backward, are more than the Python around them
    takes."""
    return saved > HOST_FORWARD + HOST_GRADIENT * gradients


NATIVE: dict[str, Terms] = {
    "conv2d": (2.83e-05, 0, 3.08e-11, 1.04e-10, 5.47e-10, 4.32e-10, 7.89e-10, 1.04e-08),
    "conv2d by columns": (3.6e-05, 2.81e-06, 2.69e-11, 7.51e-10, 6.46e-09, 7.18e-10),
    "conv2d_weight": (2.83e-05, 1.97e-07, 3e-11, 5.74e-10, 6.96e-10, 3.31e-10),
    "conv2d_weight by columns": (3.22e-05, 2.54e-06, 3.99e-11, 7.05e-10, 1.01e-08, 4.94e-10),
    "conv_transpose2d": (3.17e-05, 0, 3.27e-11, 2.98e-10, 7.77e-10, 2.93e-10, 1.64e-10, 9.82e-09),
    "conv_transpose2d by columns": (3.04e-05, 2.12e-06, 2.94e-11, 1.15e-09, 6.35e-09, 4.07e-10),
    "conv_transpose2d streamed": (2.49e-05, 0, 2.64e-11, 6.3e-10, 9.89e-11, 5.94e-09),
}
TORCH: dict[str, Terms] = {
    "conv2d NCHW 1x1": (2.82e-05, 2.36e-06, 2.78e-11, 1.37e-11, 2.69e-10, 2e-09),
    "conv2d NCHW depthwise": (8.02e-05, 1.19e-07, 0, 0, 7.34e-10, 3.27e-07),
    "conv2d NCHW dilated": (0.000111, 2.37e-06, 3.16e-11, 0, 1.35e-09, 6.96e-10),
    "conv2d NCHW grouped": (0.000122, 1.03e-06, 3.74e-11, 1.46e-11, 2.92e-10, 7.9e-10),
    "conv2d NCHW plain": (0.000102, 7.96e-07, 2.68e-11, 1.51e-12, 1.55e-09, 1.39e-09),
    "conv2d NHWC 1x1": (3.06e-05, 1.55e-06, 0, 3.86e-11, 3.93e-10, 0),
    "conv2d NHWC depthwise": (8.1e-05, 6.8e-08, 0, 0, 4.8e-10, 1.03e-07),
    "conv2d NHWC dilated": (0.000111, 1e-06, 1.19e-11, 1.59e-11, 5.32e-10, 7.26e-10),
    "conv2d NHWC grouped": (0.000127, 3.75e-07, 3.45e-12, 2.1e-11, 3.94e-10, 4.14e-10),
    "conv2d NHWC plain": (9.62e-05, 1.41e-06, 2.04e-11, 2.23e-12, 6.57e-10, 1.56e-09),
    "conv2d_weight NCHW 1x1": (6.08e-05, 2.61e-06, 1.01e-11, 4.06e-11, 2.72e-10, 0),
    "conv2d_weight NCHW depthwise": (7.99e-05, 1.94e-07, 1.56e-09, 3.07e-26, 1.51e-09, 3.77e-07),
    "conv2d_weight NCHW dilated": (9.25e-05, 5.17e-06, 5.28e-11, 0, 0, 7.58e-10),
    "conv2d_weight NCHW grouped": (0.000187, 1.11e-06, 2.36e-11, 2.1e-11, 2.38e-10, 9.46e-10),
    "conv2d_weight NCHW plain": (0.000167, 6.14e-07, 1.5e-11, 1.76e-11, 1.04e-09, 2.48e-09),
    "conv2d_weight NHWC 1x1": (6.51e-05, 1.97e-06, 0, 5.78e-11, 1.02e-10, 0),
    "conv2d_weight NHWC depthwise": (9.56e-05, 4.38e-08, 0, 0, 3e-09, 4.05e-07),
    "conv2d_weight NHWC dilated": (0.000109, 1.76e-05, 3.73e-11, 0, 1.87e-09, 4.57e-09),
    "conv2d_weight NHWC grouped": (0.000204, 3.64e-07, 4.04e-11, 2.77e-12, 3.87e-10, 6.52e-09),
    "conv2d_weight NHWC plain": (0.000165, 2.5e-06, 4.23e-11, 0, 4.09e-10, 4.59e-09),
    "conv_transpose2d NCHW 1x1": (1.65e-05, 3.04e-06, 5.87e-11, 0, 4.2e-10, 3.65e-09),
    "conv_transpose2d NCHW depthwise": (6.22e-05, 1.41e-07, 0, 0, 1.76e-09, 3.53e-07),
    "conv_transpose2d NCHW dilated": (7.43e-05, 3.99e-06, 4.64e-11, 0, 2.22e-10, 1.28e-09),
    "conv_transpose2d NCHW grouped": (0.000147, 5.82e-07, 2.52e-11, 4.38e-11, 1.18e-10, 1.07e-09),
    "conv_transpose2d NCHW plain": (5.32e-05, 1.05e-06, 2.47e-11, 0, 3.58e-09, 1.86e-09),
    "conv_transpose2d NHWC 1x1": (2.45e-05, 1.63e-06, 3.63e-11, 0, 3.87e-10, 2.14e-10),
    "conv_transpose2d NHWC depthwise": (7.87e-05, 9.96e-08, 0, 0, 1.26e-09, 1.14e-07),
    "conv_transpose2d NHWC dilated": (8.35e-05, 1.44e-06, 4.4e-11, 0, 1.01e-09, 5.57e-10),
    "conv_transpose2d NHWC grouped": (0.000107, 4.36e-07, 3.18e-11, 1.8e-11, 6.34e-10, 2.74e-10),
    "conv_transpose2d NHWC plain": (0.000108, 8.28e-07, 1.65e-11, 0, 1.94e-09, 1.19e-09),
}
