"""Does a sample that was asked to be of class y look like class y? Samples, and what a judge takes them for."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fastgan.training import Generator, classes_of, generate

GENERATION_BATCH = 500


@dataclass(frozen=True)
class ClassAccuracy:
    """The share of samples of the class asked for: over all, and for each class."""

    total: float
    per_class: list[float]
    samples: int


def check_samples(generator: Generator, samples: int) -> None:
    """Raise ValueError if ``generator`` cannot be asked for each class equally often in ``samples`` samples.

    Nor can a covariance be taken of fewer than two samples.
    """
    classes = classes_of(generator)
    if samples < 2:
        raise ValueError(f"samples={samples} is too few to measure anything: give at least 2")
    if classes is not None and samples % classes:
        raise ValueError(f"samples={samples} must be a positive multiple of the {classes} classes")


def draw(
    generator: Generator, samples: int, seed: int, batch_size: int = GENERATION_BATCH
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Images [n, C, H, W] float in [-1, 1] on the generator's device, and the classes asked for, int64 [n], or None.

    A conditional generator is asked for class 0, 1, 2 ... in turn, so for each one equally often. The noise comes from
    a CPU generator and all at once: it depends on ``seed`` and ``samples``, not on the device or ``batch_size``.

    Raises ValueError as check_samples does, and if the generator makes numbers that are not finite.
    """
    check_samples(generator, samples)
    device = next(generator.parameters()).device
    classes = classes_of(generator)
    noise = torch.randn(samples, generator.z_dim, generator=torch.Generator().manual_seed(seed))
    asked = None if classes is None else torch.arange(samples) % classes
    for start in range(0, samples, batch_size):
        part = slice(start, start + batch_size)
        labels = None if asked is None else asked[part].to(device)
        images = generate(generator, noise[part].to(device), labels)
        if not bool(images.isfinite().all()):
            raise ValueError("generator makes images with numbers that are not finite (NaN or infinity)")
        yield images, labels


def count_pairs(asked: Tensor, judged: Tensor, classes: int) -> Tensor:
    """Confusion matrix int64 [classes, classes]: how many asked to be of class i, int64 [N], were judged to be of j."""
    return torch.bincount(asked * classes + judged, minlength=classes * classes).reshape(classes, classes).cpu()


def class_accuracy(confusion: Tensor) -> ClassAccuracy:
    """The shares on the diagonal of ``confusion``, int64 [asked, judged], each class asked for at least once."""
    right, asked = confusion.diagonal(), confusion.sum(1)
    samples = int(asked.sum())
    return ClassAccuracy(int(right.sum()) / samples, (right.double() / asked).tolist(), samples)
