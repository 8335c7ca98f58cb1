"""The CUDA kernels of the loss in the emulator (tests/cuda_emulator): the tests of the compiled loss, and that no order
of the threads makes a difference."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.checks import DTYPES
from tests.cuda_emulator import ROOT, Emulator, KernelError, reason, with_other_device_code
from tests.cuda_emulator.conftest import emulated, kinds  # noqa: F401
from tests.ops import test_native_bce_with_logits as compiled
from tests.ops.test_native_bce_with_logits import (  # noqa: F401
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
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, gradient), as torch.ops.fastgan_native.bce_with_logits gives them."""
    numbers = [seed, input.numel(), compiled.CODE[reduction], repr(float(target_value)), int(target is not None)]
    words = ["bce_with_logits", str(input.dtype).removeprefix("torch."), *numbers, int(need_grad)]
    answer = bytearray(running.run(words, [input] if target is None else [input, target]))
    values = torch.frombuffer(answer, dtype=input.dtype) if answer else input.new_empty(0)
    loss_shape = input.shape if reduction == "none" else torch.Size(())
    loss, grad = values.split([loss_shape.numel(), input.numel() if need_grad else 0])
    return loss.view(loss_shape), grad.view(input.shape if need_grad else (0,))


@pytest.fixture(autouse=True)
def _emulated_instead(emulated: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(compiled, "native", lambda *args, **options: run(emulated, *args, **options))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", compiled.REDUCTIONS)
@pytest.mark.parametrize("size", [1, 255, 257, 1025, 3000])
def test_no_order_of_the_threads_makes_a_difference(emulated, dtype, reduction, size):  # noqa: F811
    input, target = torch.randn(size).to(dtype), torch.rand(size).to(dtype)
    first, *others = (run(emulated, input, target, reduction=reduction, seed=seed) for seed in range(6))
    for other in others:
        assert all(torch.equal(one, same) for one, same in zip(first, other, strict=True))


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
    "an element too many": (KERNEL, "threadIdx.x; i < n;", "threadIdx.x; i <= n;"),
    "an element too few": (KERNEL, "threadIdx.x; i < n;", "threadIdx.x; i + 1 < n;"),
    "a wrong mask of lanes": (REDUCE, "kAllLanes = 0xffffffffu", "kAllLanes = 0xfffffffeu"),
    "a value that was never written": (REDUCE, "if (lane == 0) {", "if (lane == 0 && warp != 3) {"),
    "a warp's sum that no other sees": (REDUCE, "lane < kThreads / kWarp ?", "lane < 1 ?"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_planted_errors_are_found(name: str, kinds: bool, tmp_path: Path) -> None:  # noqa: F811
    """By another result in some order of the threads, or by the emulator itself."""
    if kinds:
        pytest.skip("the result gives it away, so the sanitizers are not needed")
    file, right, wrong = PLANTED[name]
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    text = (tmp_path / "csrc" / file).read_text()
    assert text.count(right) == 1
    (tmp_path / "csrc" / file).write_text(text.replace(right, wrong))
    planted = Emulator(with_other_device_code("bce_with_logits", tmp_path / "csrc", tmp_path))
    try:
        assert any(_is_wrong(planted, seed) for seed in range(8))
    finally:
        planted.close()


def _is_wrong(running: Emulator, seed: int) -> bool:
    input = torch.randint(-3, 4, (1300,)).float()
    try:
        loss, grad = run(running, input, torch.zeros_like(input), reduction="sum", seed=seed)
    except KernelError:
        return True
    expected_loss, expected_grad = compiled.judge(input, torch.zeros_like(input), "sum")
    return not (torch.isclose(loss.double(), expected_loss) and torch.allclose(grad.double(), expected_grad))
