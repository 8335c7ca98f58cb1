"""A judge is trained once for a training set, and kept."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastgan.data import Images
from fastgan.files import cache_folder
from fastgan.training import CheckpointError, load_checkpoint, save_checkpoint
from fastgan.version import __version__

from .judge import BATCH, DROPOUT, FEATURES, PEAK_LR, RECIPE, Judge, Progress, epochs_for, real_accuracy, train_judge


@dataclass(frozen=True)
class TrainedJudge:
    """A judge in eval mode, the share of the real test images it names rightly, and how it was trained."""

    judge: Judge
    test_accuracy: float
    protocol: dict[str, Any]


def trained_judge(
    train: Images,
    test: Images,
    seed: int = 0,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
) -> TrainedJudge:
    """The judge kept in the cache folder for ``train``, or a new one that is then kept there; ``test`` marks it.

    What is kept is found by the digest of ``train`` and trusted by its own digest. A damaged file is replaced and a
    folder that cannot be written to is lived without, each with a warning line on stderr: it is only a cache.
    ``progress`` is called with the share of the training that is done, at last with 1.

    Raises ValueError if ``train`` has no classes.
    """
    settings = _settings(train, seed)
    path = judge_path(train, seed)
    kept = _kept(path, train, settings)
    if kept is None:
        judge = train_judge(train, seed, device, progress)
        trained_with = {"fastgan": __version__, "torch": str(torch.__version__), "device": torch.device(device).type}
        kept = {"settings": settings, "trained_with": trained_with, "judge": judge.state_dict()}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_checkpoint(path, kept)
        except OSError as error:
            print(f"warning: the judge is not kept for the next time: {error}", file=sys.stderr)
    judge = _judge(train, kept["judge"]).to(device)
    if progress is not None:
        progress(1.0)
    accuracy = real_accuracy(judge, test)
    protocol = {
        **settings,
        "trained_with": kept["trained_with"],
        "test_images": len(test),
        "test_accuracy": accuracy,
    }
    return TrainedJudge(judge, accuracy, protocol)


def judge_path(train: Images, seed: int = 0) -> Path:
    """Where the judge for ``train`` is kept: named by what it learns from, the recipe and the seed."""
    form = f"{train.channels}x{train.image_size}"
    return cache_folder() / "judges" / f"{train.digest[:32]}-{form}-recipe{RECIPE}-seed{seed}.pt"


def _settings(train: Images, seed: int) -> dict[str, Any]:
    if train.classes is None:
        raise ValueError(f"train={train.name} is unlabelled: a judge needs classes to learn")
    return {
        "network": f"CNN of torch's layers: 3x3 convolutions, batch norm, max pooling; {FEATURES} features",
        "recipe": RECIPE,
        "optimizer": f"Adam, one cycle to {PEAK_LR}, dropout {DROPOUT}",
        "epochs": epochs_for(len(train)),
        "batch_size": min(BATCH, len(train)),
        "seed": seed,
        "trained_on": f"{train.name}, train split",
        "train_digest": train.digest,
        "train_images": len(train),
        "classes": train.classes,
    }


def _judge(train: Images, weights: dict[str, Any]) -> Judge:
    assert train.classes is not None  # _settings has asked
    with torch.random.fork_rng(devices=[]):  # it draws weights before it is given them
        judge = Judge(train.channels, train.image_size, train.classes)
    judge.load_state_dict(weights)
    return judge.eval()


def _kept(path: Path, train: Images, settings: dict[str, Any]) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        kept = load_checkpoint(path, "settings", "trained_with", "judge")
        if kept["settings"] != settings:
            return None
        _judge(train, kept["judge"])
    except CheckpointError as error:
        print(f"warning: {error}; the judge is trained again", file=sys.stderr)
        return None
    except RuntimeError:  # load_state_dict's, of many lines
        print(f"warning: {path}: weights of another network; the judge is trained again", file=sys.stderr)
        return None
    return kept
