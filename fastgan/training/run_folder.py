"""The folder of a run: its files by name, and who may write to it."""

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch

from fastgan.data import Images
from fastgan.files import atomic_write
from fastgan.info import cpu_name
from fastgan.native import native_reason
from fastgan.version import __version__

from .config import ConfigError, TrainConfig

RUN = "run.json"
CHECKPOINT = "checkpoint.pt"
PREVIOUS = "checkpoint-previous.pt"
METRICS_CSV = "metrics.csv"
CURVES = "curves.png"
SAMPLES = "samples"
TENSORBOARD = "tensorboard"
EVALUATION = "evaluation.json"
CONFUSION = "confusion.png"
LOCK = ".lock"

# All that a run writes, as patterns; whatever else is in the folder is the user's.
_WRITTEN = (
    RUN,
    CHECKPOINT,
    PREVIOUS,
    METRICS_CSV,
    CURVES,
    EVALUATION,
    CONFUSION,
    f"{SAMPLES}/step-[0-9]*.png",
    f"{TENSORBOARD}/events.out.tfevents.*",
)
# What a write that was killed leaves behind.
_LEFTOVERS = (
    *(f".{name}.[0-9]*.tmp" for name in (RUN, CHECKPOINT, PREVIOUS, METRICS_CSV, CURVES, EVALUATION, CONFUSION)),
    f"{SAMPLES}/.step-[0-9]*.png.[0-9]*.tmp",
)


class RunError(RuntimeError):
    """A run folder that must not be written to or cannot be read. The message is one line and says what to do."""


@contextmanager
def open_run(path: Path, mode: Literal["new", "overwrite", "resume"] = "new") -> Iterator[None]:
    """Hold the folder ``path`` for a run, creating it if need be, until the context ends.

    "overwrite" deletes the files of an earlier run, by name; any other file stays. "resume" keeps them.

    Raises RunError if a run is going on there, if there is anything in it that is to be neither overwritten nor
    resumed, or if what is to be overwritten or resumed is no run.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file: choose a folder with --out")
    filled = path.is_dir() and any(entry.name != LOCK for entry in path.iterdir())
    if (mode == "resume" or (mode == "overwrite" and filled)) and not (path / RUN).is_file():
        raise RunError(f"{path} is not the folder of a run: it has no {RUN}")
    if mode == "new" and filled:
        raise RunError(
            f"{path} is not empty: choose another --out, --resume {path} to go on, or --overwrite to replace it"
        )
    path.mkdir(parents=True, exist_ok=True)
    with (path / LOCK).open("w") as lock:  # released by the system however this process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{path} is in use by another run: wait for its end, or choose another folder") from error
        for pattern in _LEFTOVERS if mode == "resume" else (*_WRITTEN, *_LEFTOVERS):
            for file in path.glob(pattern):
                file.unlink()
        (path / SAMPLES).mkdir(exist_ok=True)
        yield


def write_run_json(
    path: Path, config: TrainConfig, data: Images, record: dict[str, Any] | None = None, after_step: int = 0
) -> None:
    """Write what the run in the folder ``path`` is: with it, and the data, the run can be done again.

    ``record``: what the file held before, if the run goes on after ``after_step``.

    Raises OSError if it cannot be written.
    """
    processes = [] if record is None else list(record.get("processes", []))
    content = {
        "config": config.to_json(),
        "data": {
            "name": data.name,
            "origin": data.origin,
            "images": len(data),
            "class_names": list(data.class_names),
            "sha256": data.digest,
        },
        # One for each process that worked at the run.
        "processes": [*processes, {"after_step": after_step, **environment(config)}],
    }
    atomic_write(path / RUN, json.dumps(content, indent=2).encode() + b"\n")


def environment(config: TrainConfig) -> dict[str, Any]:
    """What the bits of a training depend on beside its configuration and its data, as plain values."""
    cuda = torch.device(config.device).type == "cuda"
    return {
        "fastgan": __version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda if cuda else None,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(config.device) if cuda else cpu_name(),
        "threads": torch.get_num_threads(),
        "backend": os.environ.get("FASTGAN_BACKEND", "auto"),
        "native": native_reason("cuda" if cuda else "cpu") is None,
    }


def read_run_json(path: Path) -> tuple[TrainConfig, dict[str, Any]]:
    """The configuration in ``path``, a run's folder or its run.json, and all that the file holds.

    Raises RunError, naming the file, if it is missing, damaged or not what a run writes.
    """
    file = path / RUN if path.is_dir() else path
    try:
        content = json.loads(file.read_text())
        if not isinstance(content, dict):
            raise RunError(f"{file}: not what a run writes")
        return TrainConfig.from_json(content.get("config")), content
    except FileNotFoundError as error:
        raise RunError(f"{file}: no such file: name a folder that 'fastgan train' wrote") from error
    except OSError as error:
        raise RunError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:  # JSON and unicode errors and ConfigError are ValueErrors
        problem = f"in its config, {error}" if isinstance(error, ConfigError) else "not what a run writes"
        raise RunError(f"{file}: {problem}") from error
