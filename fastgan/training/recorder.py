"""What a training run writes as it goes: progress lines, losses.csv, checkpoints and sample grids."""

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from .checkpoint import save_checkpoint
from .config import TrainConfig
from .grid import save_grid
from .health import NonFiniteError, bad_weight
from .networks import classes_of, generate
from .run_folder import CHECKPOINT, LOSSES, SAMPLES
from .step import METRICS, Players

GRID_ROWS = GRID_COLUMNS = 10


class Recorder:
    """What the training writes. Only here does the host wait for the device, when it has something to write."""

    def __init__(self, config: TrainConfig, players: Players, run: Path, noise: torch.Generator) -> None:
        self.config, self.players, self.run = config, players, run
        count = GRID_ROWS * GRID_COLUMNS
        self.fixed_z = torch.randn(count, players.generator.z_dim, generator=noise, device=config.device)
        classes = classes_of(players.generator)
        self.fixed_labels: Tensor | None = None
        if classes is not None:  # a row for each class
            rows = torch.arange(GRID_ROWS, device=config.device) % classes
            self.fixed_labels = rows.repeat_interleave(GRID_COLUMNS)
        self.pending: list[Tensor] = []  # the metrics of the steps since the last line, still on the device
        self.saved_step: int | None = None
        self.began = self.line_began = time.monotonic()
        (run / LOSSES).write_text(",".join(("step", "epoch", "seconds", *METRICS, "images_per_second")) + "\n")

    def elapsed(self) -> float:
        return time.monotonic() - self.began

    def add(self, metrics: Tensor) -> None:
        self.pending.append(metrics)

    def log(self, step: int, epoch: int) -> None:
        """Print and keep the means over the steps since the last line."""
        metrics = torch.stack(self.pending)
        means, each_step = metrics.mean(0).tolist(), metrics.tolist()
        now = time.monotonic()
        speed = len(each_step) * self.config.batch_size / (now - self.line_began)
        self.pending, self.line_began = [], now
        d_loss, g_loss, d_real, d_fake = means
        print(
            f"step {step}  epoch {epoch}  D loss {d_loss:.3f}  G loss {g_loss:.3f}  "
            f"D(x) {d_real:.3f}  D(G(z)) {d_fake:.3f}  {speed:.0f} images/s",
            flush=True,
        )
        with (self.run / LOSSES).open("a") as file:
            values = [f"{self.elapsed():.1f}", *(f"{mean:.6g}" for mean in means), f"{speed:.1f}"]
            file.write(",".join([str(step), str(epoch), *values]) + "\n")
        for past, values_then in zip(range(step - len(each_step) + 1, step + 1), each_step, strict=True):
            for name, value in zip(METRICS, values_then, strict=True):
                if not math.isfinite(value):
                    self._fail(past, name)

    def save(self, step: int) -> None:
        """Write the checkpoint and the samples of the fixed noise, if the networks are healthy."""
        if bad_weight(self.players) is not None:
            self._fail(step, None)
        save_checkpoint(
            self.run / CHECKPOINT,
            {
                "config": asdict(self.config),
                "step": step,
                "generator": self.players.generator.state_dict(),
                "discriminator": self.players.discriminator.state_dict(),
            },
        )
        self.saved_step = step
        images = generate(self.players.generator, self.fixed_z, self.fixed_labels)
        picture = self.run / SAMPLES / f"step-{step:06d}.png"
        save_grid(picture, images, GRID_COLUMNS, self.config.model, self.config.seed)

    def _fail(self, step: int, metric: str | None) -> NoReturn:
        bad = ", ".join(name for name in (metric, bad_weight(self.players)) if name is not None)
        kept = "there is no checkpoint yet"
        if self.saved_step is not None:
            kept = f"kept: the checkpoint of step {self.saved_step}"
        raise NonFiniteError(f"step {step}: not finite any more: {bad}; {kept}; try a lower --lr")
