"""What a judge sees in the samples of a generator: classes, and a Fréchet distance beside its floor."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgan.data import Images
from fastgan.training import Generator, classes_of

from .accuracy import ClassAccuracy, class_accuracy, count_pairs, draw
from .frechet import Moments, frechet_distance
from .judge import EVALUATION_BATCH, Judge, Progress

FLOOR_SEED = 0  # the floor belongs to the data, not to a generator: it is the same whatever seed the samples have


@dataclass(frozen=True)
class Frechet:
    """Distance of ``samples`` samples to the real test images, and of ``floor_samples`` real training images to them.

    The floor is what a generator that drew from the training set itself would get with that many samples.
    The judge has seen those images in training, which sets them a little apart from the test images: a generator may
    come out slightly below the floor.
    """

    distance: float
    floor: float
    samples: int
    floor_samples: int


@dataclass(frozen=True)
class Judged:
    """``confusion``: int64 [asked, judged], None as is the accuracy if no class could be asked for; ``class_shares``:
    the share of the samples that the judge takes for each class."""

    class_accuracy: ClassAccuracy | None
    confusion: Tensor | None
    class_shares: list[float]
    frechet: Frechet


@torch.no_grad()
def judge_samples(
    judge: Judge,
    generator: Generator,
    train: Images,
    test: Images,
    samples: int,
    seed: int,
    report: Progress = lambda fraction: None,
) -> Judged:
    """Let ``judge``, in eval mode on the generator's device, look at ``samples`` samples and at the real images.

    The distance is taken to all of ``test``; the floor from as many images of ``train`` as there are samples, drawn at
    random, or as good as all of them if there are fewer.

    Raises ValueError as draw does.
    """
    classes = judge.head.out_features
    made, shares = Moments(), torch.zeros(classes, dtype=torch.int64)
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    for images, asked in draw(generator, samples, seed):
        features = judge.features(images.float())
        seen = judge.head(features).argmax(1)
        shares += torch.bincount(seen, minlength=classes).cpu()
        if asked is not None:
            confusion += count_pairs(asked, seen, classes)
        made.update(features)
        report(0.6 * made.count / samples)
    real = real_moments(judge, test, len(test))
    report(0.8)
    part = real_moments(judge, train, samples, FLOOR_SEED)
    report(1.0)
    conditional = classes_of(generator) is not None
    return Judged(
        class_accuracy(confusion) if conditional else None,
        confusion if conditional else None,
        (shares.double() / samples).tolist(),
        Frechet(frechet_distance(made, real), frechet_distance(part, real), samples, part.count),
    )


@torch.no_grad()
def real_moments(judge: Judge, data: Images, count: int, seed: int | None = None) -> Moments:
    """Of the features of ``count`` images, or of all if there are fewer: in order, or with a seed in random order."""
    device = next(judge.parameters()).device
    batch = min(EVALUATION_BATCH, count, len(data))  # not more than count: batches leaves the incomplete one out
    batches = data.in_order(batch) if seed is None else data.batches(batch, torch.Generator().manual_seed(seed))
    moments = Moments()
    for images, _ in batches:
        moments.update(judge.features(images[: count - moments.count].to(device)))
        if moments.count == count:
            break
    return moments
