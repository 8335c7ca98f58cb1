"""The choice of tiles: what fits a GPU, what fills it, and which estimate wins."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from fastgan.ops.common import triton_runtime
from fastgan.ops.conv_transpose2d import triton_tiles as tiles
from fastgan.ops.conv_transpose2d.triton_tiles import Machine, Work

#: An A100, an RTX 4090, an H100, a B200, an RTX 5090.
MACHINES = (
    Machine(8, 108, 163 << 10),
    Machine(8, 128, 99 << 10),
    Machine(),
    Machine(10, 148, 227 << 10),
    Machine(12, 170, 99 << 10),
)
HALF = (torch.bfloat16, torch.float16)


def random_work(seed: int) -> Work:
    dice = random.Random(seed)
    m, n, depth = (dice.choice((1, 3, 16, 64, 100, 512, 1 << dice.randrange(21))) for _ in range(3))
    k = depth * dice.choice((1, 4, 9, 16))
    flags = [dice.random() < 0.5 for _ in range(3)]
    return Work(dice.choice((1, 4, 16)), m, n, k, k * dice.uniform(0.5, 1), depth, *flags)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: f"sm_{machine.major}x-{machine.shared >> 10}K")
@pytest.mark.parametrize("dtype", [*HALF, torch.float32, torch.float64], ids=str)
def test_a_tile_fits(dtype: torch.dtype, machine: Machine) -> None:
    for seed in range(200):
        work = random_work(seed)
        tile = tiles.choose(dtype, bool(seed % 2), work, machine)
        loaded = (tile.block_m * (1 + work.behind) + tile.block_n) * tile.block_k * dtype.itemsize
        assert tile.num_stages >= 1 and tile.num_stages * loaded <= machine.shared
        assert min(tile.block_n, tile.block_k) >= 16 and tile.block_m >= 64  # 64 rows: what wgmma takes
        assert tile.splits == 1 or 4 * tile.splits * tile.block_k <= work.k  # at least four steps in each


def test_the_quickest_estimate_wins() -> None:
    for seed, machine in itertools.product(range(50), MACHINES):
        work = random_work(seed)
        chosen = tiles.choose(torch.bfloat16, False, work, machine)
        estimate = tiles._estimate(chosen, work, 2, machine.processors)
        for tile in tiles._candidates(torch.bfloat16, False, work, machine):
            assert estimate <= tiles._estimate(tile, work, 2, machine.processors)


def test_few_programs_split_their_sums_and_many_do_not() -> None:
    first = Work(4, 4, 256, 2048, 1152, 512)  # DCGAN's first layer, one image
    tile = tiles.choose(torch.bfloat16, False, first, Machine())
    assert 4 * -(-256 // tile.block_n) * tile.splits > 64
    large = first._replace(m=4 * 4096)
    assert tiles.choose(torch.bfloat16, False, large, Machine()).splits == 1


def test_more_multiprocessors_never_take_longer() -> None:
    for seed in range(50):
        work = random_work(seed)
        for tile in tiles._candidates(torch.bfloat16, False, work, Machine()):
            assert tiles._estimate(tile, work, 2, 264) <= tiles._estimate(tile, work, 2, 132)


@pytest.mark.parametrize(
    ("dtype", "machine", "columns", "size", "expected"),
    [
        (torch.bfloat16, Machine(), 64, (16, 16), (16, 16)),
        (torch.bfloat16, Machine(), 64, (14, 14), (16, 16)),
        (torch.bfloat16, Machine(), 128, (16, 16), (8, 16)),
        (torch.float32, Machine(), 64, (16, 16), (8, 16)),
        (torch.bfloat16, MACHINES[0], 64, (16, 16), (8, 16)),
        (torch.bfloat16, MACHINES[4], 64, (16, 16), (8, 16)),
        (torch.bfloat16, Machine(), 64, (64, 64), (16, 16)),
        (torch.bfloat16, Machine(), 64, (40, 4), (64, 4)),
    ],
)
def test_fold(
    dtype: torch.dtype, machine: Machine, columns: int, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert tiles.fold(dtype, machine, columns, *size) == expected


def test_powers_of_two() -> None:
    assert [triton_runtime.power_of_two(n) for n in (0, 1, 2, 3, 64, 65)] == [1, 1, 2, 4, 64, 128]
    assert [tiles.covering(n, 64) for n in (1, 17, 64, 65)] == [16, 32, 64, 64]


def test_ceiling_division() -> None:
    assert [triton_runtime.cdiv(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
