"""All that is measured of a trained generator, and the protocol that gave the figures."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastgan.data import Images
from fastgan.training import Generator, classes_of
from fastgan.version import __version__

from .accuracy import ClassAccuracy, check_samples, draw
from .fid import FID_BATCH, Fid, find_weights, inception_distance
from .judge import FEATURES, Progress
from .judged import FLOOR_SEED, Frechet, judge_samples
from .keep import trained_judge


@dataclass(frozen=True)
class Evaluation:
    """What evaluate_generator found. Without classes in the data all but ``fid`` and ``protocol`` is None.

    ``class_accuracy`` and ``confusion``, int64 [asked, judged], are None for an unconditional generator;
    ``class_shares`` is the share of the samples the judge takes for each class.
    """

    class_accuracy: ClassAccuracy | None
    confusion: Tensor | None
    class_shares: list[float] | None
    frechet: Frechet | None
    fid: Fid | None
    judge_accuracy: float | None
    protocol: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """All of it as plain values that json can write."""
        return {
            "class_accuracy": None if self.class_accuracy is None else asdict(self.class_accuracy),
            "confusion": None if self.confusion is None else self.confusion.tolist(),
            "class_shares": self.class_shares,
            "frechet": None if self.frechet is None else asdict(self.frechet),
            "fid": None if self.fid is None else asdict(self.fid),
            "judge_accuracy": self.judge_accuracy,
            "protocol": self.protocol,
        }


def evaluate_generator(
    generator: Generator,
    train: Images,
    test: Images,
    *,
    samples: int = 10_000,
    seed: int = 0,
    progress: Progress | None = None,
    fid: bool = False,
    fid_weights: Path | None = None,
) -> Evaluation:
    """Measure ``generator``, on the device it is on, against the real images ``train`` and ``test``.

    With classes in the data a judge, trained on ``train`` or kept from before, gives the class accuracy and the
    Fréchet distance in its feature space. ``seed`` settles the samples. With ``fid`` also FID against all of ``train``,
    with the Inception weights at ``fid_weights`` or those in torch.hub's folder. ``progress`` is called with the share
    of the work that is done, 0 to 1.

    Raises ValueError, naming the argument, for samples that do not divide by the classes, unlabelled data without
    ``fid``, data of another form or other classes than the generator's, and a generator that makes NaN; FidError if
    FID cannot be computed, before anything else is.
    """
    _check(generator, train, test, samples, fid)
    if fid:
        find_weights(fid_weights)
    device = next(generator.parameters()).device
    report: Progress = progress or (lambda fraction: None)
    judge_end = 0.0 if train.classes is None else 0.5 if fid else 1.0
    judge_accuracy, judged, inception = None, None, None
    protocol = _protocol(generator, train, test, samples, seed)
    if train.classes is not None:
        trained = trained_judge(train, test, progress=_part(report, 0.0, 0.6 * judge_end), device=device)
        judge_accuracy = trained.test_accuracy
        rest = _part(report, 0.6 * judge_end, judge_end)
        judged = judge_samples(trained.judge, generator, train, test, samples, seed, rest)
        protocol["judge"] = trained.protocol
        protocol["frechet"] = (
            f"{FEATURES} features of the judge's last hidden layer; samples, and for the floor a random part of the "
            f"train split (seed {FLOOR_SEED}), against the test split"
        )
    if fid:
        images = (images for images, _ in draw(generator, samples, seed, FID_BATCH))
        fid_report, total = _part(report, judge_end, 1.0), samples + len(train)
        inception = inception_distance(
            images, train, fid_weights, device, progress=lambda done: fid_report(done / total)
        )
        protocol["fid"] = "samples against all images of the train split"
    report(1.0)
    if judged is None:
        return Evaluation(None, None, None, None, inception, None, protocol)
    return Evaluation(
        judged.class_accuracy,
        judged.confusion,
        judged.class_shares,
        judged.frechet,
        inception,
        judge_accuracy,
        protocol,
    )


def _check(generator: Generator, train: Images, test: Images, samples: int, fid: bool) -> None:
    check_samples(generator, samples)
    form = generator.channels, generator.image_size
    for name, data in ("train", train), ("test", test):
        if (data.channels, data.image_size) != form:
            raise ValueError(
                f"{name}={data.name} has images of {data.channels} channels and size {data.image_size}, "
                f"generator makes {form[0]} channels and size {form[1]}"
            )
        if data.classes is None and not fid:
            raise ValueError(
                f"{name}={data.name} is unlabelled: a judge needs classes to learn, only fid works without them"
            )
    if train.classes != test.classes:
        raise ValueError(f"test={test.name} has {test.classes} classes, train={train.name} has {train.classes}")
    classes = classes_of(generator)
    if None not in (classes, train.classes) and classes != train.classes:
        raise ValueError(f"generator is asked for {classes} classes, train={train.name} has {train.classes}")


def _protocol(generator: Generator, train: Images, test: Images, samples: int, seed: int) -> dict[str, Any]:
    return {
        "fastgan": __version__,
        "torch": str(torch.__version__),
        "device": next(generator.parameters()).device.type,
        "generator": type(generator).__name__,
        "samples": samples,
        "seed": seed,
        "asked": "no class" if classes_of(generator) is None else "each class equally often",
        "data": {
            "name": train.name,
            "classes": train.classes,
            "class_names": list(train.class_names),
            "channels": train.channels,
            "image_size": train.image_size,
            **{
                split: {"origin": data.origin, "digest": data.digest, "images": len(data)}
                for split, data in (("train", train), ("test", test))
            },
        },
    }


def _part(report: Progress, start: float, stop: float) -> Progress:
    """Reports a share of one part of the work as a share of the whole."""
    return lambda fraction: report(start + (stop - start) * fraction)
