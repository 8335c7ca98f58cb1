"""Samples and confusion matrices, against generators whose answers are known."""

import pytest
import torch

from fastgan.evaluation.accuracy import class_accuracy, count_pairs, draw
from fastgan.models import CGANGenerator, DCGANGenerator, GANGenerator

from .stand_ins import Broken


def test_counting() -> None:
    asked, judged = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([0, 2, 1, 2, 2, 0])
    confusion = count_pairs(asked, judged, 3)
    assert confusion.tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 2]] and confusion.dtype == torch.int64
    accuracy = class_accuracy(confusion)
    assert accuracy.total == 4 / 6 and accuracy.samples == 6
    assert accuracy.per_class == pytest.approx([0.5, 1.0, 2 / 3])


def test_the_seed_alone_settles_the_samples_and_the_mode_is_kept() -> None:
    torch.manual_seed(0)
    generator = CGANGenerator()
    before = torch.get_rng_state()

    def images(seed: int, batch_size: int) -> torch.Tensor:
        return torch.cat([images for images, _ in draw(generator, 30, seed, batch_size)])

    first = images(1, 30)
    torch.testing.assert_close(images(1, 7), first)  # other batches, other kernels: equal but for rounding
    assert torch.equal(images(1, 30), first) and not torch.equal(images(2, 30), first)
    assert torch.equal(before, torch.get_rng_state())
    assert generator.training
    assert generator.stages[0][1].num_batches_tracked == 0  # sampling is not training


def test_each_class_is_asked_for_equally_often() -> None:
    labels = torch.cat([labels for _, labels in draw(CGANGenerator(), 40, 0, 7)])
    assert torch.bincount(labels).tolist() == [4] * 10


@pytest.mark.parametrize("generator", [GANGenerator(), DCGANGenerator()], ids=["gan", "dcgan"])
def test_no_class_is_asked_of_an_unconditional_generator(generator: GANGenerator | DCGANGenerator) -> None:
    batches = list(draw(generator, 5, 0, 3))
    assert [len(images) for images, _ in batches] == [3, 2]
    assert all(labels is None for _, labels in batches)


def test_refusals() -> None:
    for samples in (0, 1, -10):
        with pytest.raises(ValueError, match=f"samples={samples} is too few"):
            next(draw(GANGenerator(), samples, 0))
    for samples in (5, 101):
        with pytest.raises(ValueError, match=f"samples={samples} must be a positive multiple of the 10 classes"):
            next(draw(CGANGenerator(), samples, 0))
    with pytest.raises(ValueError, match="not finite"):
        next(draw(Broken(), 10, 0))
