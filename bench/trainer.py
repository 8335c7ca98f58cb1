"""What the trainer costs beside the networks and optimizers: ``python -m bench trainer``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from fastgan.data import load
from fastgan.training import TrainConfig, open_run, write_run_json
from fastgan.training import loop as loop_module
from fastgan.training import step as step_module
from fastgan.training.draws import Draws


class Stopwatch:
    """Adds up the seconds spent in the functions that it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - began

        return timed


def overhead(config: TrainConfig) -> dict[str, float]:
    """Train by ``config``, on a CPU, and say where the seconds of the loop went.

    Everything that is neither network nor optimizer counts as the trainer's: drawing the batch and the noise, gradient
    norms, the log, TensorBoard, checkpoints, sample grids and curves.
    """
    data = load(config.data, "train", *config.form)
    steps, draws, norms = Stopwatch(), Stopwatch(), Stopwatch()
    first: list[float] = []
    train_step = steps.around(step_module.train_step)

    def marked(*args: Any) -> Any:
        first.append(time.perf_counter())
        return train_step(*args)

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(loop_module, "train_step", marked),
        mock.patch.object(Draws, "__call__", draws.around(Draws.__call__)),
        mock.patch.object(step_module, "gradient_norms", norms.around(step_module.gradient_norms)),
        open_run(Path(folder)),
    ):
        write_run_json(Path(folder), config, data)
        loop_module.train(config, data, Path(folder))
        total = time.perf_counter() - first[0]
    networks = steps.seconds - draws.seconds - norms.seconds
    return {
        "steps": float(len(first)),
        "seconds": total,
        "draws": draws.seconds / total,
        "gradient norms": norms.seconds / total,
        "log, checkpoints, pictures": (total - steps.seconds) / total,
        "all that is the trainer's": 1 - networks / total,
    }


def seconds_to_first_step(model: str, data: str) -> float:
    """From the start of the process to the end of one that trains one step, with its checkpoint and picture."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["train", model, "--data", data, "--batch-size", "32", "--steps", "1", "--out", f"{folder}/run"]
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "fastgan.cli", *command], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - began


def main(model: str, data: str, steps: int, batch_size: int) -> int:
    """Print both figures. Returns 0."""
    for name, value in overhead(TrainConfig(model, data, steps=steps, batch_size=batch_size)).items():
        print(f"{name}: {value:.0f}" if name in ("steps", "seconds") else f"{name}: {value:.2%} of the time")
    print(f"a process that trains one step, all in all: {seconds_to_first_step(model, data):.1f} s")
    return 0
