"""The CUDA kernels of the loss in the emulator (tests/cuda_emulator): the tests of the compiled loss, and that no order
of the threads makes a difference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastgan.native import native_reason
from tests.checks import DTYPES
from tests.cuda_emulator import Emulator, KernelError, planted, reason
from tests.cuda_emulator.conftest import emulated, kinds  # noqa: F401
from tests.ops import test_native_bce_with_logits as compiled
from tests.ops.test_native_bce_with_logits import (  # noqa: F401
    test_backward,
    test_backward_in_float16_does_not_round_one_over_n,
    test_backward_of_special_numbers_as_torch,
    test_empty,
    test_every_magnitude,
    test_exp_and_log1p_are_accurate_over_their_whole_range,
    test_gradient_not_wanted,
    test_infinities_and_nan_as_torch,
    test_loss_and_gradient,
    test_number_as_target_is_the_filled_tensor,
)

pytestmark = [
    pytest.mark.skipif(reason() is not None, reason=str(reason())),
    pytest.mark.xdist_group("cuda_emulator"),
]


def run(
    running: Emulator,
    input: torch.Tensor,
    target: torch.Tensor | None = None,
    target_value: float = 0.0,
    reduction: str = "none",
    need_grad: bool = True,
    seed: int = 0,
    skipped: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, gradient), as torch.ops.fastgan_native.bce_with_logits gives them. All arrays begin ``skipped`` elements
    after a multiple of 16 bytes."""
    numbers = [seed, input.numel(), skipped, compiled.CODE[reduction], repr(float(target_value))]
    flags = [int(target is not None), int(need_grad)]
    words = ["bce_with_logits", str(input.dtype).removeprefix("torch."), *numbers, *flags]
    answer = bytearray(running.run(words, [input] if target is None else [input, target]))
    values = torch.frombuffer(answer, dtype=input.dtype) if answer else input.new_empty(0)
    loss_shape = input.shape if reduction == "none" else torch.Size(())
    loss, grad = values.split([loss_shape.numel(), input.numel() if need_grad else 0])
    return loss.view(loss_shape), grad.view(input.shape if need_grad else (0,))


def run_backward(
    running: Emulator,
    gradient: torch.Tensor,
    grad_output: torch.Tensor,
    reduction: str,
    in_place: bool,
    seed: int = 0,
    skipped: int = 0,
) -> torch.Tensor:
    """What torch.ops.fastgan_native.bce_with_logits_backward gives."""
    if gradient.numel() == 0:
        return gradient.clone()  # nothing is launched
    one_number = all(
        stride == 0 or size == 1 for stride, size in zip(grad_output.stride(), grad_output.shape, strict=True)
    )
    divisor = gradient.numel() if reduction == "mean" else 1
    words = [seed, gradient.numel(), skipped, divisor, int(one_number), int(in_place)]
    arrays = [gradient, grad_output.as_strided((1,), (1,)) if one_number else grad_output]
    name = str(gradient.dtype).removeprefix("torch.")
    answer = bytearray(running.run(["bce_with_logits_backward", name, *words], arrays))
    return torch.frombuffer(answer, dtype=gradient.dtype).view(gradient.shape)


def run_backward_twice(
    running: Emulator, gradient: torch.Tensor, grad_output: torch.Tensor, reduction: str
) -> torch.Tensor:
    """In place and not, which must agree."""
    result, overwritten = (run_backward(running, gradient, grad_output, reduction, way) for way in (False, True))
    assert same_bits(result, overwritten)
    return result


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """A NaN is any NaN."""
    return torch.equal(one.isnan(), other.isnan()) and torch.equal(one.nan_to_num(), other.nan_to_num())


@pytest.fixture(autouse=True)
def _emulated_instead(emulated: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(compiled, "native", lambda *args, **options: run(emulated, *args, **options))
    monkeypatch.setattr(compiled, "native_backward", lambda *args: run_backward_twice(emulated, *args))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", compiled.REDUCTIONS)
@pytest.mark.parametrize("size", [1, 255, 257, 1025, 3000, 9001])
def test_no_order_of_the_threads_makes_a_difference(emulated, dtype, reduction, size):  # noqa: F811
    input, target = torch.randn(size).to(dtype), torch.rand(size).to(dtype)
    first, *others = (run(emulated, input, target, reduction=reduction, seed=seed) for seed in range(6))
    for other in others:
        assert all(torch.equal(one, same) for one, same in zip(first, other, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", compiled.REDUCTIONS)
@pytest.mark.parametrize("size", [1, 3, 2900])
def test_addresses_make_no_difference(emulated, dtype, reduction, size):  # noqa: F811
    """16 bytes at a time where the addresses allow it, or else element by element: the same bits."""
    input, target = torch.randn(size).to(dtype), torch.rand(size).to(dtype)
    seed = torch.randn(size).to(dtype) if reduction == "none" else torch.tensor(0.7).to(dtype)
    (loss, grad), (other_loss, other_grad) = (
        run(emulated, input, target, reduction=reduction, skipped=skipped) for skipped in (0, 1)
    )
    assert torch.equal(loss, other_loss) and torch.equal(grad, other_grad)
    for in_place in (False, True):
        here, there = (run_backward(emulated, grad, seed, reduction, in_place, skipped=skipped) for skipped in (0, 1))
        assert torch.equal(here, there)


@pytest.mark.skipif(native_reason("cpu") is not None, reason=str(native_reason("cpu")))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", compiled.REDUCTIONS)
@pytest.mark.parametrize("size", [1, 257, 3001])
def test_backward_gives_what_the_cpu_gives(emulated, dtype, reduction, size):  # noqa: F811
    gradient = torch.randn(size).to(dtype)
    for seed in (torch.tensor(0.7), torch.tensor(1.0), torch.tensor(-3.0).expand(size), torch.randn(size)):
        call = torch.ops.fastgan_native.bce_with_logits_backward
        expected = call(gradient, seed.to(dtype), compiled.CODE[reduction])
        assert same_bits(run_backward_twice(emulated, gradient, seed.to(dtype), reduction), expected)


def test_more_elements_than_threads(emulated, kinds):  # noqa: F811
    """The largest grid, whose threads take several elements each."""
    if kinds:
        pytest.skip("a minute with sanitizers")
    input = torch.randint(-3, 4, (1024 * 1024 + 300,)).double()
    compiled.check(input, torch.zeros_like(input), "sum")


KERNEL, REDUCE = "bce_with_logits/kernel.cuh", "common/block_reduce.cuh"
#: Errors that a kernel could have: (file, what is there, what is there instead).
PLANTED = {
    "a missing barrier": (REDUCE, "  __syncthreads();\n", ""),
    "an element too many": (KERNEL, "thread; i < n;", "thread; i <= n;"),
    "an element too few": (KERNEL, "thread; i < n;", "thread; i + 1 < n;"),
    "a pack too few": (KERNEL, "i < packs;", "i + 1 < packs;"),
    "a wrong mask of lanes": (REDUCE, "kAllLanes = 0xffffffffu", "kAllLanes = 0xfffffffeu"),
    "a value that was never written": (REDUCE, "if (lane == 0) {", "if (lane == 0 && warp != 3) {"),
    "a warp's sum that no other sees": (REDUCE, "lane < kThreads / kWarp ?", "lane < 1 ?"),
    "a last block that does not wait": (KERNEL, "== gridDim.x - 1;", "== 0;"),
    "no last block": (KERNEL, "== gridDim.x - 1;", "== gridDim.x;"),
    "sums in the order of arrival": (KERNEL, "block_sums[blockIdx.x] = total", "block_sums[*scratch.ticket] = total"),
    "no barrier between the two sums": (KERNEL, "    __syncthreads();  // all know", "    // all know"),
    "a last block that not all of its threads know of": (
        KERNEL,
        "if (!is_last[0])",
        "if (threadIdx.x >= 64 || !is_last[0])",
    ),
    "one incoming gradient for all": (
        KERNEL,
        "? BcePack<T>{} : bce_load(grad_output + i, wide)",
        "? BcePack<T>{} : bce_load(grad_output, wide)",
    ),
    "nothing written for a factor of 1": (KERNEL, "factor == C(1) && gradient == output", "factor == C(1)"),
}


def test_nothing_is_found_where_nothing_is_planted(emulated):  # noqa: F811
    assert not any(_is_wrong(emulated, seed) for seed in range(8))
    assert not _is_another_in_another_order(emulated)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_planted_errors_are_found(name: str, kinds: bool, tmp_path: Path) -> None:  # noqa: F811
    """By another result in some order of the threads, or by the emulator itself."""
    if kinds:
        pytest.skip("the result gives it away, so the sanitizers are not needed")
    with planted("bce_with_logits", PLANTED[name], tmp_path) as running:
        assert any(_is_wrong(running, seed) for seed in range(8)) or _is_another_in_another_order(running)


def _is_wrong(running: Emulator, seed: int) -> bool:
    size = 1303  # two blocks, and three elements that are no pack
    input, incoming = torch.randint(-3, 4, (size,)).float(), torch.randint(-3, 4, (size,)).float()
    try:
        loss, grad = run(running, input, torch.zeros_like(input), reduction="sum", seed=seed)
        scaled = run_backward(running, input, incoming, "none", in_place=True, seed=seed)
        copied = run_backward(running, input, torch.tensor(1.0), "sum", in_place=False, seed=seed)
    except KernelError:
        return True
    expected_loss, expected_grad = compiled.judge(input, torch.zeros_like(input), "sum")
    right = torch.isclose(loss.double(), expected_loss) and torch.allclose(grad.double(), expected_grad)
    return not (right and torch.equal(scaled, input * incoming) and torch.equal(copied, input))


def _is_another_in_another_order(running: Emulator) -> bool:
    """Whether the sum of many blocks has other bits when they run in another order."""
    input = torch.randn(9001, dtype=torch.float64)
    return len({run(running, input, reduction="sum", seed=seed)[0].item() for seed in range(6)}) > 1
