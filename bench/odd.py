"""A seeded sample of convolution shapes that no model of ours has: fastgan must not be slower anywhere."""

from __future__ import annotations

import dataclasses
import math
import random

from bench.case import Case
from bench.ops import conv

COUNT, SEED = 100, 5
KINDS = ((3, 1, 1), (5, 2, 2), (2, 2, 0))  # kernel, stride, padding
# In one direction: so many multiplications and so many values, so that all shapes together take two minutes.
MOST_PRODUCTS, MOST_VALUES = 48e6, 1 << 20
SECONDS = 0.15


def _log_uniform(rng: random.Random, most: int) -> int:
    return min(round(math.exp(rng.uniform(0, math.log(most + 1)))), most)


def _shape(rng: random.Random) -> tuple[str, int, tuple[int, int, int], int, dict[str, int]] | None:
    """(op, batch, (C, H, W) of the input, channels of the output, options with the kernel's size), or None: too big."""
    op = rng.choice(("conv2d", "conv_transpose2d"))
    kernel, stride, padding = rng.choice(KINDS)
    dilation = rng.choice((1, 1, 1, 2)) if kernel > 2 else 1
    groups = rng.choice((1, 1, 1, 2, 4, 16))
    c_in, c_out = (groups * max(_log_uniform(rng, 1024) // groups, 1) for _ in range(2))
    batch, height, width = _log_uniform(rng, 256), _log_uniform(rng, 48), _log_uniform(rng, 48)
    up = op == "conv_transpose2d"
    span = dilation * (kernel - 1) + 1
    if up:
        sides = [(n - 1) * stride - 2 * padding + span for n in (height, width)]
    else:
        sides = [(n + 2 * padding - span) // stride + 1 for n in (height, width)]
    pixels = height * width if up else sides[0] * sides[1]
    products = batch * c_in * c_out // groups * kernel**2 * pixels
    values = batch * max(c_in * height * width, c_out * sides[0] * sides[1])
    if min(sides) < 1 or products > MOST_PRODUCTS or values > MOST_VALUES:
        return None
    options = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return op, batch, (c_in, height, width), c_out, options


def odd_shapes(count: int = COUNT, seed: int = SEED) -> list[Case]:
    """Two cases (forward, forward + backward) for each shape; the same shapes for the same seed, on every machine."""
    rng, found = random.Random(seed), []
    while len(found) < 2 * count:
        drawn = _shape(rng)
        if drawn is None:
            continue
        op, batch, image, c_out, options = drawn
        kernel, groups = options.pop("kernel"), options["groups"]
        first, second = (image[0], c_out) if op == "conv_transpose2d" else (c_out, image[0])
        text = f"{op} {image[0]}→{c_out}, {image[1]}x{image[2]}, k{kernel} s{options['stride']}"
        text += f" d{options['dilation']}" * (options["dilation"] > 1) + f" g{groups}" * (groups > 1)
        name = f"{len(found) // 2:02} {text}"
        weight = (first, second // groups, kernel, kernel)
        cases = conv(name, op, image, weight, bool(len(found) % 4), **options)
        found += [
            dataclasses.replace(
                c, group="odd shapes", weight=None, batches=(batch,), float32_only=True, seconds=SECONDS
            )
            for c in cases
        ]
    return found
