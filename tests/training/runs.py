"""Small runs on noise, and what they left behind."""

import csv
from pathlib import Path
from typing import Any

import torch

from fastgan.data import ImageSet
from fastgan.training import TrainConfig, load_checkpoint, load_state, open_run, write_run_json
from fastgan.training.loop import Ended, train


def noise_set(count: int = 64, channels: int = 1, size: int = 28) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, channels, size, size), generator=generator, dtype=torch.uint8)
    return ImageSet("digits", "memory", images, torch.arange(count) % 10)


def config_of(**options: Any) -> TrainConfig:
    settings = {"model": "gan", "data": "digits", "steps": 5, "batch_size": 16, "log_every": 2, "save_every": 4}
    return TrainConfig(**{**settings, **options})


def run(folder: Path, data: ImageSet | None = None, **options: Any) -> Path:
    """A whole run in ``folder``."""
    config, data = config_of(**options), data or noise_set()
    with open_run(folder):
        write_run_json(folder, config, data)
        assert train(config, data, folder).signal is None
    return folder


def resume(folder: Path, data: ImageSet | None = None, **options: Any) -> Ended:
    """Go on with the run in ``folder``."""
    with open_run(folder, "resume"):
        return train(config_of(**options), data or noise_set(), folder, load_state(folder))


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def equal(a: object, b: object) -> bool:
    """Whether two trees of dictionaries, lists, tensors and plain values have the same bits."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def same_training(a: Path, b: Path) -> bool:
    """Whether the checkpoints of two runs hold the same bits: networks, optimizers, data position, dice."""
    states = [load_checkpoint(folder / "checkpoint.pt") for folder in (a, b)]
    for state in states:  # what says how the run was made, and by the clock, is not what it has learned
        for key in ("config", "seconds", "open_window"):
            del state[key]
    return equal(*states)
