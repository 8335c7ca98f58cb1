"""A network's judge is put on the sides of the kinks that a run had, and nowhere else."""

from __future__ import annotations

import pytest
import torch

from bench import kinks
from bench.case import Setting, keep
from bench.harness import RedError, check, run_and_check
from bench.whole import MODELS, networks, step
from fastgan import nn

SETTING = Setting(torch.device("cpu"), torch.float32, False, batch=4)


class Tiny(torch.nn.Module):
    """Our layers, or torch's of the same weights."""

    def __init__(self, ours: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNormAct2d(2, activation="relu") if ours else torch.nn.BatchNorm2d(2)
        self.act = torch.nn.Identity() if ours else torch.nn.ReLU(inplace=True)
        self.last = torch.nn.LeakyReLU(0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.act(self.norm(x)) - 0.5)


def test_the_same_sides_are_recorded_of_our_layers_and_torchs() -> None:
    x = torch.randn(4, 2, 3, 3)
    with kinks.recorded() as ours:
        Tiny(True)(x)
    with kinks.recorded() as theirs:
        Tiny(False)(x)
    assert len(ours) == len(theirs) == 2
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    with kinks.recorded() as later:
        pass
    Tiny(True)(x)
    assert not later


def test_the_judge_takes_the_recorded_slopes() -> None:
    x = torch.tensor([1.0, -1.0, 1e-9, -1e-9, *[1.0] * 96], dtype=torch.float64, requires_grad=True)
    network = torch.nn.Sequential(torch.nn.LeakyReLU(0.1))
    placed = kinks.Judge([torch.tensor([True, False, False, True, *[True] * 96])], torch.float32).place(network)
    (gradient,) = torch.autograd.grad(placed(x).sum(), x)
    assert gradient.tolist() == [1.0, 0.1, 0.1, 1.0, *[1.0] * 96]


def test_a_side_that_rounding_does_not_explain_raises() -> None:
    x = torch.tensor([1.0, -0.01], dtype=torch.float64)
    for wrong in ([True, True], [False, False]):
        judge = kinks.Judge([torch.tensor(wrong)], torch.float32)
        with pytest.raises(kinks.OtherSideError, match="other slope"):
            judge.activate(x, 0.0)
        later = kinks.Judge([torch.tensor(wrong)], torch.float32)
        later.strict = False
        later.activate(x, 0.0)
    kinks.Judge([torch.tensor([True, False])], torch.float32).activate(x, 0.0)


def test_16_bits_explain_no_flip_of_everything() -> None:
    x = torch.randn(1000, dtype=torch.float64)
    with pytest.raises(kinks.OtherSideError):
        kinks.Judge([torch.zeros(1000, dtype=torch.bool)], torch.bfloat16).activate(x, 0.0)


def test_other_activations_than_the_runs_raise() -> None:
    x = torch.ones(3, dtype=torch.float64)
    judge = kinks.Judge([x > 0, x > 0], torch.float32)
    judge.activate(x, 0.0)
    with pytest.raises(kinks.OtherSideError, match="1 activations more"):
        judge.finish()
    judge.activate(x, 0.0)
    with pytest.raises(kinks.OtherSideError, match="other activations"):
        judge.activate(x, 0.0)
    nan = torch.full((3,), torch.nan, dtype=torch.float64)
    with pytest.raises(kinks.OtherSideError):
        kinks.Judge([x > 0], torch.float32).activate(nan, 0.0)


def test_a_slope_that_is_wrong_is_found() -> None:
    work = networks(MODELS[0])[1].setup(SETTING)
    with kinks.recorded() as sides:
        theirs = work.torch(keep)()
    assert work.judge_at is not None
    check(work, theirs, theirs, work.judge_at(sides))
    flipped = [side.clone() for side in sides]
    flipped[0].view(-1)[7] ^= True
    with pytest.raises(kinks.OtherSideError):
        work.judge_at(flipped)


@pytest.mark.parametrize("case", [networks(MODELS[1])[0], step(MODELS[1])], ids=lambda case: case.id)
def test_a_wrong_gradient_stays_red(case) -> None:
    work = case.setup(SETTING)

    def wrong(call):
        def run():
            return {name: value * (1.001 if name.startswith("grad ") else 1) for name, value in call().items()}

        return run

    run_and_check(work, work.fastgan(), work.torch(keep))
    work = case.setup(SETTING)
    with pytest.raises(RedError):
        run_and_check(work, wrong(work.fastgan()), work.torch(keep))
