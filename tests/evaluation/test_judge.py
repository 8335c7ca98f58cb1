"""The judge, and the share of samples that are of the class asked for, against generators whose answer is known."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fastgan.data import ImageSet, load
from fastgan.evaluation import Judge, class_accuracy, real_accuracy, train_judge, trained_judge
from fastgan.evaluation import judge as judge_module
from fastgan.models import CGANGenerator, GANGenerator


class Painter(CGANGenerator):
    """Makes images filled with a value that stands for a class: the one asked for, or another."""

    def __init__(self, wrong_classes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.wrong_classes = wrong_classes

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        painted = labels.clone()
        for wrong in self.wrong_classes:
            painted[labels == wrong] = (wrong + 1) % 10
        return (painted / 10).reshape(-1, 1, 1, 1).expand(-1, 1, 28, 28)


class Reader(nn.Module):
    """A judge that reads the painted value."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.one_hot((images[:, 0, 0, 0] * 10).round().long(), 10).float()


def test_all_right_and_two_classes_wrong() -> None:
    assert class_accuracy(Painter(), Reader(), samples=50).total == 1.0
    accuracy = class_accuracy(Painter(wrong_classes=(3, 7)), Reader(), samples=1230)
    assert accuracy.per_class == [0.0 if number in (3, 7) else 1.0 for number in range(10)]
    assert accuracy.total == pytest.approx(0.8)
    assert accuracy.samples == 1230


def test_the_seed_settles_the_samples_and_the_mode_is_kept() -> None:
    generator, judge = CGANGenerator(), Judge(1, 28, 10).eval()
    first = class_accuracy(generator, judge, samples=100, seed=1)
    assert first == class_accuracy(generator, judge, samples=100, seed=1)
    assert generator.training
    assert generator.stages[0][1].num_batches_tracked == 0  # sampling is not training


def test_refusals() -> None:
    with pytest.raises(ValueError, match="no class to ask for"):
        class_accuracy(GANGenerator(), Reader())  # type: ignore[arg-type]
    for samples in (0, 5, 101):
        with pytest.raises(ValueError, match="multiple of the 10 classes"):
            class_accuracy(Painter(), Reader(), samples=samples)


def squares(count: int) -> ImageSet:
    """Ten classes that a judge learns at once: a bright row at a height that is the class."""
    labels = torch.arange(count) % 10
    images = torch.zeros(count, 1, 28, 28, dtype=torch.uint8)
    for index, label in enumerate(labels.tolist()):
        images[index, 0, 2 * label + 3 : 2 * label + 5] = 255
    return ImageSet("digits", "memory", images, labels)


def test_training_is_seeded_and_leaves_the_global_generator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(judge_module.EPOCHS, "digits", 5)
    data = squares(256)
    before = torch.get_rng_state()
    first, again = train_judge(data, seed=1), train_judge(data, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not first.training
    assert real_accuracy(first, squares(40)) == 1.0


def test_the_judge_is_trained_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(judge_module.EPOCHS, "digits", 1)
    data, path = squares(256), tmp_path / "judge.pt"
    first, accuracy = trained_judge(path, data, data)
    monkeypatch.setattr(judge_module, "train_judge", lambda *_: pytest.fail("trained again"))
    again, again_accuracy = trained_judge(path, data, data)
    assert accuracy == again_accuracy
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        trained_judge(path, data, data, seed=1)  # another protocol, another judge


def test_the_judge_of_the_real_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(judge_module.EPOCHS, "digits", 4)
    judge = train_judge(load("digits", "train", 28, 1))
    assert real_accuracy(judge, load("digits", "test", 28, 1)) > 0.9
