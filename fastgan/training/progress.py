"""What a training shows: a bar with the time left on a terminal, plain lines elsewhere."""

import math
import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from .config import TrainConfig

_REDRAWS_PER_SECOND = 2  # the bar is drawn by a thread that takes turns with the training


class Display:
    """Shows how far a training is. Within its context a bar is drawn, if the console is a terminal."""

    def __init__(self, config: TrainConfig, last_step: float, done_steps: int, done_seconds: float) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self._last_step, self._last_second = last_step, (config.minutes or math.inf) * 60
        self._done_steps, self._done_seconds, self._began = done_steps, done_seconds, time.monotonic()
        columns = (
            TextColumn("step {task.fields[step]}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
        )
        self._bar: Progress | None = None
        self._heard = True
        if self.console.is_terminal:
            self._bar = Progress(*columns, console=self.console, refresh_per_second=_REDRAWS_PER_SECOND)
            self._task = self._bar.add_task("", total=1.0, step=done_steps, metrics="", left="?")

    def __enter__(self) -> "Display":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, step: int) -> None:
        """Call after every step."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self._fraction(step), step=step, left=self.time_left(step))

    def metrics(self, step: int, epoch: int, means: list[float], images_per_second: float) -> None:
        """Show the means of METRICS over the last steps."""
        d_loss, g_loss, d_real, d_fake = means[:4]
        text = f"D loss {d_loss:.3f}  G loss {g_loss:.3f}  D(x) {d_real:.3f}  D(G(z)) {d_fake:.3f}"
        if self._bar is not None:
            self._bar.update(self._task, metrics=f"{text}  {images_per_second:.0f} img/s")
        else:
            left = self.time_left(step)
            self.say(f"step {step}  epoch {epoch}  {text}  {images_per_second:.0f} images/s  left {left}")

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one. Nobody may be reading any more, as after ``| head``."""
        if self._bar is not None:
            self.console.print(line, markup=False)
        elif self._heard:
            try:
                print(line, flush=True)
            except OSError:
                self._heard = False

    def time_left(self, step: int) -> str:
        """As h:mm:ss, at the speed since the start of this process; "?" before the first step."""
        spent = time.monotonic() - self._began
        done = step - self._done_steps
        by_step = (self._last_step - step) * spent / done if done else math.inf
        left = min(by_step, self._last_second - self._done_seconds - spent)
        return "?" if math.isinf(left) else str(timedelta(seconds=max(0, round(left))))

    def _fraction(self, step: int) -> float:
        seconds = self._done_seconds + time.monotonic() - self._began
        return min(1.0, max(step / self._last_step, seconds / self._last_second))
