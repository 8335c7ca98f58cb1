"""The emulator finds the errors of kernels that have one each (faults.cpp), and none in those that have none."""

from __future__ import annotations

import pytest
import torch

from tests.cuda_emulator import Emulator, KernelError, emulator, reason

pytestmark = [
    pytest.mark.skipif(reason() is not None, reason=str(reason())),
    pytest.mark.xdist_group("cuda_emulator"),
]
THREADS, SEEDS = 64, range(12)


def run(emulated: Emulator, kernel: str, seed: int = 0, blocks: int = 4, cluster: int = 1) -> torch.Tensor:
    input = torch.arange(1.0, blocks * THREADS + 1)
    answer = emulated.run(["fault", kernel, seed, blocks, cluster], [input])
    return torch.frombuffer(bytearray(answer), dtype=torch.float32).view(blocks, THREADS)


def given(blocks: int = 4) -> torch.Tensor:
    return torch.arange(1.0, blocks * THREADS + 1).view(blocks, THREADS)


def expected(kernel: str) -> torch.Tensor:
    x = given()
    warps = x.view(4, 2, 32)
    return {
        "reverse": x.flip(1),
        "twice": x.roll(-2, 1) + 2,
        "warp_sum": warps.sum(2, keepdim=True).expand(4, 2, 32).reshape(4, THREADS),
        "neighbours": x.roll(-1, 0),
    }[kernel]


@pytest.mark.parametrize(("kernel", "cluster"), [("reverse", 1), ("twice", 1), ("warp_sum", 1), ("neighbours", 4)])
def test_what_is_right_is_right_in_any_order(emulated: Emulator, kernel: str, cluster: int) -> None:
    for seed in SEEDS:
        assert torch.equal(run(emulated, kernel, seed, cluster=cluster), expected(kernel))


def test_parts_of_a_warp_may_go_ways_of_their_own(emulated: Emulator) -> None:
    x = given().view(-1, 2, 16)
    sums = x + x.view(-1, 2, 8, 2).flip(3).view(-1, 2, 16)
    halves = torch.stack([sums[:, 0], x[:, 1]], 1)
    wanted = halves.view(-1, 2, 4, 2, 2).flip(3).reshape(4, THREADS)
    for seed in SEEDS:
        assert torch.equal(run(emulated, "halves_of_a_warp", seed), wanted)


def test_a_sum_over_a_block_has_the_same_bits_in_any_order(emulated: Emulator) -> None:
    sums = [run(emulated, "block_sums", seed).flatten()[:4] for seed in SEEDS]
    assert all(torch.equal(each, given().sum(1)) for each in sums)


@pytest.mark.parametrize(
    ("kernel", "right", "cluster"),
    [
        ("reverse_without_barrier", "reverse", 1),
        ("twice_without_second_barrier", "twice", 1),
        ("reverse_of_an_unwritten_value", "reverse", 1),
        ("warp_sum_of_half_a_mask", "warp_sum", 1),
    ],
)
def test_another_result_gives_it_away(emulated: Emulator, kernel: str, right: str, cluster: int) -> None:
    results = [run(emulated, kernel, seed, cluster=cluster) for seed in SEEDS]
    assert not all(torch.equal(each, expected(right)) for each in results)


def test_what_was_never_written_is_nan(emulated: Emulator) -> None:
    result = run(emulated, "reverse_of_an_unwritten_value")
    assert result[:, THREADS - 1 - 5].isnan().all() and result.isnan().sum() == 4


def test_the_order_of_atomics_is_anybodys(emulated: Emulator) -> None:
    """Large values round: some orders of the additions give other bits."""
    x = torch.rand(THREADS) + 1e4 * torch.rand(THREADS)
    sums = {emulated.run(["fault", "sum_by_atomics", seed, 1, 1], [x])[:4] for seed in SEEDS}
    assert len(sums) > 1


@pytest.mark.parametrize(
    ("kernel", "cluster", "message"),
    [
        (
            "barrier_for_some",
            1,
            r"thread \d+ of block \(\d, 0, 0\) waits for the others at __syncthreads|which have ended",
        ),
        ("barrier_after_an_end", 1, "which have ended, will not reach|waits for the others at __syncthreads"),
        (
            "warp_sum_without_own_lane",
            1,
            "thread (31|63) .* is not in the mask that it gives to __shfl_xor_sync|other lanes",
        ),
        ("warp_sum_of_absent_lanes", 1, "waits for the other lanes at __shfl_xor_sync"),
        ("neighbours_without_first_barrier", 4, "of its cluster, which has not begun"),
        ("neighbours_without_last_barrier", 4, "of its cluster, which has ended"),
    ],
)
def test_an_error_says_who_and_where(emulated: Emulator, kernel: str, cluster: int, message: str) -> None:
    """In some order of the threads."""
    found = []
    for seed in SEEDS:
        try:
            run(emulated, kernel, seed, cluster=cluster)
        except KernelError as error:
            found.append(error)
    assert found
    for error in found:
        with pytest.raises(KernelError, match=message):
            raise error


@pytest.mark.parametrize("kernel", ["reverse_beyond_shared", "reverse_beyond_global"])
def test_an_index_beyond_an_array_ends_the_program(kernel: str) -> None:
    """After the report of AddressSanitizer, with the line."""
    with emulator(sanitized=True) as emulated, pytest.raises(KernelError, match="heap-buffer-overflow") as caught:
        run(emulated, kernel)
    assert "faults.cpp" in str(caught.value)


@pytest.mark.parametrize(("blocks", "cluster"), [(0, 1), (3, 2)])
def test_a_grid_that_cannot_be_launched(emulated: Emulator, blocks: int, cluster: int) -> None:
    with pytest.raises(KernelError, match="invalid configuration argument"):
        run(emulated, "reverse", blocks=blocks, cluster=cluster)
