"""Tile sizes, warps, stages and splits of the Triton kernels, from sizes alone.

What a launch would take is estimated at the rates of an H100 (SXM), and the candidate with the least is taken. Only the
order of the estimates matters; none of them has been compared with a GPU's time yet.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

import torch

from fastgan.ops.common.dtypes import is_half
from fastgan.ops.common.triton_runtime import power_of_two

PROCESSORS = 132
#: Per microsecond: half-precision products of one multiprocessor, bytes that one takes from the second-level cache
#: (64 a clock), bytes that all of them take together.
FLOPS, BYTES, ALL_BYTES = 6.0e6, 1.1e5, 5.5e6
#: Microseconds: of a step of a pipelined loop, and of a program and a launch beside their steps, at least.
_STEP, _PROGRAM, LAUNCH = 0.1, 1.0, 2.0
_HOPPER = 9
_WGMMA = (_HOPPER, 10)  # compute capabilities whose matrix products do not pass through registers


class Tile(NamedTuple):
    """A program's share of a product of [M, K] and [K, N], and how the loop over K is split and run."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int
    splits: int = 1


class Work(NamedTuple):
    """``copies`` products of [m, k] and [k, n]: phases or taps, and groups. ``k`` is the longest sum, ``mean`` the mean
    one, ``depth`` the part of k that is consecutive; ``packed``: channels are neighbours in memory;
    ``behind``: in how many operands' places something is taken, with a second tensor or vectors by channel;
    ``gathered``: the values of one operand have an address each; ``told``: tiles tell of their output by channel;
    ``beside``: channels of another tensor are added."""

    copies: int
    m: int
    n: int
    k: int
    mean: float
    depth: int
    packed: bool = True
    behind: int = 0
    gathered: bool = False
    told: bool = False
    beside: bool = False


class Machine(NamedTuple):
    """Compute capability (major), multiprocessors, bytes of shared memory that a block can have; an H100's by
    default."""

    major: int = 9
    processors: int = PROCESSORS
    shared: int = 227 << 10


def covering(channels: int, most: int) -> int:
    """A power of two that covers the channels; matrix instructions need at least 16."""
    return min(most, max(16, power_of_two(channels)))


#: (rows, columns, warps, stages) for 16-bit types, 64 deep. `python -m bench audit` shows that none spills on sm_80,
#: 90, 100.
_HALF = (
    (64, 64, 4, 4),
    (64, 128, 4, 4),
    (128, 64, 4, 4),
    (128, 128, 8, 4),
    (128, 256, 8, 3),
    (256, 64, 8, 3),
    (256, 128, 8, 3),
)


def _candidates(dtype: torch.dtype, tf32: bool, work: Work, machine: Machine) -> Iterable[Tile]:
    """Tiles whose rows and columns are not mostly empty. IEEE float32 has no matrix instruction, and spills with more
    than these rows, columns or depth, as TF32 and float64 do."""
    if not is_half(dtype):
        single = dtype is torch.float32
        width = 32 if (single and not tf32) or (not single and work.told and machine.major >= min(_WGMMA)) else 64
        stages = 2 if work.told and single and not tf32 and machine.major == _HOPPER else 3
        yield Tile(64, covering(work.n, width), covering(work.depth, 16), 4, stages)
        return
    if not work.packed:  # an address per value
        yield Tile(64, covering(work.n, 64), covering(work.depth, 32), 4, 2)
        return
    for block_m, block_n, warps, stages in _HALF:
        large = max(block_m, block_n) > 128
        deep = work.gathered and work.depth > 64
        most = 128 * 64 if work.behind and work.told else 256 * 128
        most = 64 * 64 if work.behind + work.beside > 1 and machine.major not in _WGMMA else most
        if block_m * block_n > most or (large and (work.behind or work.told or deep or machine.major > max(_WGMMA))):
            continue  # they would spill
        if work.told and (machine.major not in _WGMMA or (machine.major > _HOPPER and block_m * block_n == 64 * 64)):
            stages = 3
        wide = block_m * block_n > 64 * 64
        warps = 8 if (work.behind and block_m > 64) or (wide and (work.gathered or work.beside)) else warps
        if (block_m == 64 or work.m > block_m // 2) and (block_n == 64 or work.n > block_n // 2):
            yield Tile(block_m, covering(work.n, block_n), covering(work.depth, 64), warps, stages)


def _estimate(tile: Tile, work: Work, itemsize: int, processors: int) -> float:
    """Microseconds that the launch would take."""
    rows, columns = -(-work.m // tile.block_m), -(-work.n // tile.block_n)
    programs = work.copies * rows * columns
    loaded = (tile.block_m + tile.block_n) * tile.block_k * itemsize
    busy = max(2 * tile.block_m * tile.block_n * tile.block_k / FLOPS, loaded / BYTES)
    longest, steps = -(-work.k // tile.block_k), work.mean / tile.block_k
    each = -(-programs * tile.splits // processors)
    time = max(-(-longest // tile.splits) * max(busy, _STEP), each * steps / tile.splits * busy)
    time = max(time + _PROGRAM * min(each, 2), programs * steps * loaded / ALL_BYTES)
    if tile.splits > 1:
        time += LAUNCH + 8 * tile.splits * work.copies * work.m * work.n / ALL_BYTES
    return time


@functools.lru_cache(maxsize=1 << 10)
def choose(dtype: torch.dtype, tf32: bool, work: Work, machine: Machine) -> Tile:
    """The tile and the number of splits with the least estimate."""
    found = []
    for tile in _candidates(dtype, tf32, work, machine):
        loaded = (tile.block_m * (2 if work.behind else 1) + tile.block_n) * tile.block_k * dtype.itemsize
        tile = tile._replace(num_stages=max(1, min(tile.num_stages, machine.shared // loaded)))
        for splits in (1, 2, 4, 8, 16, 32, 64, 128):
            if splits == 1 or 4 * splits * tile.block_k <= work.k:
                split = tile._replace(splits=splits)
                found.append((_estimate(split, work, dtype.itemsize, machine.processors), split))
    return min(found)[1]


def fold(dtype: torch.dtype, machine: Machine, columns: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the tiles of small pixels in which the transposed convolution of few channels folds so many
    columns: whole images of ``height`` x ``width`` where they fit. As many elsewhere, or in float32, would spill."""
    most = 256 if is_half(dtype) and machine.major in _WGMMA and columns <= 64 else 128
    across = min(power_of_two(width), 16)
    return min(power_of_two(height), most // across), across
