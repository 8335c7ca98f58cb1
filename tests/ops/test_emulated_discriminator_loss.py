"""The CUDA kernels of the discriminator's loss in the emulator (tests/cuda_emulator), against the compiled loss of the
CPU, and that no order of the threads makes a difference."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.checks import DTYPES, assert_rule
from tests.cuda_emulator import Emulator, KernelError, planted, reason
from tests.cuda_emulator.conftest import emulated, kinds  # noqa: F401
from tests.ops.test_emulated_bce_with_logits import same_bits

pytestmark = [
    pytest.mark.skipif(reason() is not None, reason=str(reason())),
    pytest.mark.xdist_group("cuda_emulator"),
]
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
#: One block and several, of which one tensor needs more than the other; none, less than a pack, a rest.
SIZES = [(1, 1), (128, 128), (3, 4099), (4099, 1026), (0, 5), (5, 0), (0, 0)]
sizes = pytest.mark.parametrize("sizes", SIZES, ids=str)


def run(
    running: Emulator,
    real: torch.Tensor,
    fake: torch.Tensor,
    real_target: float = 1.0,
    need_grad: bool = True,
    seed: int = 0,
    skipped: int = 0,
) -> list[torch.Tensor]:
    """(loss, both gradients), as torch.ops.fastgan_native.discriminator_loss gives them. All arrays begin ``skipped``
    elements after a multiple of 16 bytes."""
    name = str(real.dtype).removeprefix("torch.")
    words = ["discriminator_loss", name, seed, real.numel(), fake.numel(), skipped, repr(real_target), int(need_grad)]
    values = torch.frombuffer(bytearray(running.run(words, [real, fake])), dtype=real.dtype)
    loss, *gradients = values.split([1, *([real.numel(), fake.numel()] if need_grad else [])])
    return [loss[0], *gradients]


def run_backward(
    running: Emulator,
    gradients: list[torch.Tensor],
    incoming: torch.Tensor,
    in_place: bool = False,
    seed: int = 0,
    skipped: int = 0,
) -> list[torch.Tensor]:
    """As torch.ops.fastgan_native.discriminator_loss_backward and its form in place."""
    counts = [gradient.numel() for gradient in gradients]
    words = ["discriminator_loss_backward", str(incoming.dtype).removeprefix("torch."), seed, *counts, skipped]
    answer = bytearray(running.run([*words, int(in_place)], [*gradients, incoming]))
    values = torch.frombuffer(answer, dtype=incoming.dtype) if answer else incoming.new_empty(0)
    return list(values.split(counts))


def draw(sizes: tuple[int, int], dtype: torch.dtype) -> list[torch.Tensor]:
    return [(torch.randn(size, dtype=torch.float64) * 3).to(dtype) for size in sizes]


@dtypes
@sizes
@pytest.mark.parametrize("target", [1.0, 0.9])
def test_loss_and_gradients(emulated, sizes, target, dtype):  # noqa: F811
    real, fake = draw(sizes, dtype)
    targets = torch.full_like(real, target), torch.zeros_like(fake)
    loss, *gradients = run(emulated, real, fake, target)
    if 0 in sizes:
        assert loss.isnan()
    else:
        call = F.binary_cross_entropy_with_logits
        theirs, judge = (
            sum(call(change(x), change(t)) for x, t in zip((real, fake), targets, strict=True))
            for change in (lambda tensor: tensor, torch.Tensor.double)
        )
        assert_rule("loss", loss, theirs, judge)
    for gradient, x, t in zip(gradients, (real, fake), targets, strict=True):
        assert_rule("gradient", gradient, x.sigmoid() - t, x.double().sigmoid() - t.double())
    assert same_bits(run(emulated, real, fake, target, need_grad=False)[0], loss)


@dtypes
@sizes
def test_backward(emulated, sizes, dtype):  # noqa: F811
    gradients = draw(sizes, dtype)
    for seed in (torch.tensor(0.7), torch.tensor(1.0), torch.tensor(-3.0)):
        seed = seed.to(dtype)
        results = run_backward(emulated, gradients, seed)
        for one, other in zip(results, run_backward(emulated, gradients, seed, in_place=True), strict=True):
            assert torch.equal(one, other)
        for result, gradient in zip(results, gradients, strict=True):
            count = max(gradient.numel(), 1)
            assert_rule("gradient", result, gradient * (seed / count), gradient.double() * (seed.double() / count))


@dtypes
@sizes
def test_neither_orders_of_threads_nor_addresses_make_a_difference(emulated, sizes, dtype):  # noqa: F811
    real, fake = draw(sizes, dtype)
    first, *others = (
        run(emulated, real, fake, 0.9, seed=seed, skipped=skipped) for seed, skipped in ((0, 0), (1, 0), (2, 0), (3, 1))
    )
    for other in others:
        assert all(same_bits(one, same) for one, same in zip(first, other, strict=True))
    seed = torch.tensor(0.7).to(dtype)
    for in_place in (False, True):
        here, there = (run_backward(emulated, first[1:], seed, in_place, skipped=skipped) for skipped in (0, 1))
        assert all(torch.equal(one, other) for one, other in zip(here, there, strict=True))


def test_a_full_grid_whose_threads_take_several_packs_of_both(emulated, kinds):  # noqa: F811
    if kinds:
        pytest.skip("a minute with sanitizers")
    real, fake = (torch.randint(-3, 4, (size,)).double() for size in (1024 * 512 + 300, 1024 * 512 * 2 + 1))
    loss, *gradients = run(emulated, real, fake)
    right = F.softplus(-real).mean() + F.softplus(fake).mean()
    torch.testing.assert_close(loss, right)
    for gradient, x, target in zip(gradients, (real, fake), (1, 0), strict=True):
        torch.testing.assert_close(gradient, x.sigmoid() - target)


KERNEL = "bce_with_logits/kernel.cuh"
#: Errors that the kernels could have: (file, what is there, what is there instead).
PLANTED = {
    "a sum for a mean": (KERNEL, "* per_real +", "* (per_real > 0 ? 1.0 : 0.0) +"),
    "a target of the fake ones": (KERNEL, "(fake, no_target, C(0),", "(fake, no_target, real_target,"),
    "a fake element too few": (KERNEL, "no_losses, fake_grad, fake_count)", "no_losses, fake_grad, fake_count - 1)"),
    "one's gradient for both": (
        KERNEL,
        "no_losses, fake_grad, fake_count)",
        "no_losses, fake_count > 0 ? real_grad : fake_grad, fake_count)",
    ),
    "backward over the other's number": (
        KERNEL,
        "static_cast<double>(fake_count), fake_output",
        "static_cast<double>(real_count), fake_output",
    ),
    "backward of one alone": (
        KERNEL,
        "(fake_gradient, grad_output,",
        "(fake_count > 0 ? real_gradient : fake_gradient, grad_output,",
    ),
}


def _is_wrong(running: Emulator) -> bool:
    real, fake = torch.randint(-3, 4, (40,)).double(), torch.randint(-3, 4, (1303,)).double()
    try:
        loss, *gradients = run(running, real, fake)
        scaled = run_backward(running, [real, fake], torch.tensor(2.0).double())
    except KernelError:
        return True
    right = [F.softplus(-real).mean() + F.softplus(fake).mean(), real.sigmoid() - 1, fake.sigmoid()]
    right += [real * 2 / 40, fake * 2 / 1303]
    pairs = zip([loss, *gradients, *scaled], right, strict=True)
    return not all(torch.allclose(one, other) for one, other in pairs)


def test_nothing_is_found_where_nothing_is_planted(emulated):  # noqa: F811
    assert not _is_wrong(emulated)


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_planted_errors_are_found(name: str, kinds: bool, tmp_path: Path) -> None:  # noqa: F811
    if kinds:
        pytest.skip("the result gives it away, so the sanitizers are not needed")
    with planted("bce_with_logits", PLANTED[name], tmp_path) as running:
        assert _is_wrong(running)
