"""What a training run writes as it goes: the log, the curves, checkpoints and sample grids."""

import time
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from .config import TrainConfig
from .curves import Curves
from .draws import Draws
from .health import NonFiniteError, bad_weight, collapsed, spread
from .networks import classes_of, generate
from .pictures import describe, save_png, to_grid
from .progress import Display
from .run_folder import SAMPLES
from .state import save_state
from .step import Players
from .trace import TraceLayout, Window

GRID_ROWS = GRID_COLUMNS = 10
_SECONDS_BETWEEN_DRAWINGS = 60
_REAL_IMAGES_FOR_SPREAD = 300


class Recorder:
    """What the training writes. Only ``save``, and reading what has long arrived, waits for the device."""

    def __init__(
        self,
        config: TrainConfig,
        players: Players,
        draws: Draws,
        run: Path,
        display: Display,
        state: dict[str, Any] | None,
    ) -> None:
        """Go on from ``state``, or begin."""
        step, seconds, rows = (state["step"], state["seconds"], state["open_window"]) if state else (0, 0.0, None)
        self.config, self.players, self.draws, self.run, self.display = config, players, draws, run, display
        self.layout, self.window = TraceLayout.of(players, config.d_steps), Window()
        self.window.reopen(rows, config.device)
        self._reopened = len(self.window)  # steps of which the clock of this process knows nothing
        # With an open window, a row of this very step is the short one that ended the run.
        self.curves = Curves(run, first_step=step + 1, last_row=step if rows is None else step - 1)
        self.saved_step, self.spread = step, 1.0
        self._began = self._line_began = time.monotonic()
        self._seconds_before = seconds
        self._drawn = self._began
        self._speeds: dict[int, tuple[int, float, float]] = {}  # by the last step of a window: epoch, seconds, images/s
        conditional = classes_of(players.generator) is not None
        self.fixed_z, self.fixed_labels = self._fixed_noise()
        some = torch.randperm(len(draws.data), generator=torch.Generator())[:_REAL_IMAGES_FOR_SPREAD]
        images, labels = next(draws.data.take(some, len(some)))
        self._real_spread = spread(images, labels if conditional else None)

    def _fixed_noise(self) -> tuple[Tensor, Tensor | None]:
        """The noise of the sample grids, and a row for each class."""
        dice = torch.Generator().manual_seed(self.config.seed)
        z = torch.randn(GRID_ROWS * GRID_COLUMNS, self.players.generator.z_dim, generator=dice)
        classes, device = classes_of(self.players.generator), self.config.device
        if classes is None:
            return z.to(device), None
        rows = torch.arange(GRID_ROWS, device=device) % classes
        return z.to(device), rows.repeat_interleave(GRID_COLUMNS)

    def elapsed(self) -> float:
        """Seconds that the run has trained, those before it was resumed included."""
        return self._seconds_before + time.monotonic() - self._began

    def log(self, step: int, wait: bool = False) -> None:
        """Write a line with the means over the steps since the last, if there are any.

        It is written when they have arrived from the device: with ``wait`` now, else by a later call.
        """
        if len(self.window) == 0:
            return self._write_arrived(wait)
        now = time.monotonic()
        images = (len(self.window) - self._reopened) * self.config.batch_size * self.config.d_steps
        self._reopened = 0
        self._speeds[step] = (self.draws.epoch, self.elapsed(), images / (now - self._line_began))
        self._line_began = now
        self.window.close(step)
        self._write_arrived(wait)

    def _write_arrived(self, wait: bool = False) -> None:
        for step, traces in self.window.ready(wait):
            self._check(step, traces)
            means = self.layout.metrics(traces).mean(0).tolist()
            epoch, seconds, speed = self._speeds.pop(step)
            self.curves.add(step, epoch, seconds, means, speed)
            self.display.metrics(step, epoch, means, speed)

    def save(self, step: int) -> None:
        """Write the checkpoint, the samples of the fixed noise and the curves, if all numbers are healthy."""
        self._write_arrived(wait=True)
        pending = self.window.open_rows()
        if pending is not None:
            self._check(step, pending)
        weight = bad_weight(self.players)
        if weight is not None:
            self._fail(step, f"{weight} is not finite any more")
        images = generate(self.players.generator, self.fixed_z, self.fixed_labels)
        grid = to_grid(images, GRID_COLUMNS)
        # The checkpoint last: what a run that is killed here has not written, it writes when it is resumed.
        description = describe(self.config.model, self.config.seed, step=step)
        save_png(self.run / SAMPLES / f"step-{step:06d}.png", grid, description)
        self.spread = spread(images, self.fixed_labels) / max(self._real_spread, 1e-12)
        self.curves.add_samples(step, self.spread, grid)
        self.curves.sync()
        save_state(self.run, self.config, self.players, self.draws, step, self.elapsed(), pending)
        self.saved_step = step
        if collapsed(step, self.spread):
            self.display.say(
                f"warning: step {step}: collapsed: the images of the fixed noise are all alike, they differ "
                f"{self.spread:.1%} as much as real ones; if it stays so, begin again with another --seed"
            )
        if time.monotonic() - self._drawn >= _SECONDS_BETWEEN_DRAWINGS:
            self.curves.draw()
            self._drawn = time.monotonic()

    def close(self) -> None:
        """Write what is left of the curves."""
        self.curves.close()
        self.curves.draw()

    def _check(self, step: int, traces: Tensor) -> None:
        """Raise NonFiniteError if there is a bad number in ``traces``, the last of which is that of ``step``."""
        bad = self.layout.first_bad(traces)
        if bad is not None:
            row, name = bad
            weight = bad_weight(self.players)
            now = f"; now {weight} is bad too" if weight else ""
            self._fail(step - len(traces) + 1 + row, f"the first number that is not finite is {name}{now}")

    def _fail(self, step: int, problem: str) -> NoReturn:
        kept = f"kept: the checkpoint of step {self.saved_step}" if self.saved_step else "there is no checkpoint yet"
        advice = f"try fastgan train --config {self.run} with a lower --lr than {self.config.lr:g} and another --out"
        raise NonFiniteError(f"step {step}: {problem}; {kept}; {advice}")
