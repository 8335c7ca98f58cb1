"""The curves of a run: metrics.csv and TensorBoard as it goes, curves.png to look at."""

import csv
import importlib.util
import io
import os
import threading
from pathlib import Path

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from fastgan.files import atomic_write

from .run_folder import CURVES, METRICS_CSV, TENSORBOARD
from .trace import METRICS

if importlib.util.find_spec("matplotlib") is None:  # imported late, but missed before anything is written
    raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

COLUMNS = ("step", "epoch", "seconds", *METRICS, "images_per_second")
_PANELS = {
    "loss": {"d_loss": "D", "g_loss": "G"},
    "mean probability of “real”": {"d_real": "D(x)", "d_fake": "D(G(z))"},
    "gradient norm": {"d_grad_norm": "D", "g_grad_norm": "G"},
}


class Curves:
    """One row per line of the log: means over the steps since the last."""

    def __init__(self, run: Path, first_step: int = 1, last_row: int = 0) -> None:
        """Go on in the folder ``run`` with ``first_step``; rows of steps after ``last_row`` are dropped.

        Raises OSError if the files cannot be written.
        """
        self.run = run
        self.rows = _read_rows(run / METRICS_CSV, last_row)
        atomic_write(run / METRICS_CSV, _to_csv([COLUMNS, *self.rows]))
        # purge_step hides what was written for steps that are now done again
        self._tensorboard = SummaryWriter(run / TENSORBOARD, purge_step=first_step)
        self._excepthook, threading.excepthook = threading.excepthook, _quiet

    def add(self, step: int, epoch: int, seconds: float, means: list[float], images_per_second: float) -> None:
        """Write the means of METRICS over the steps since the last row."""
        numbers = [f"{seconds:.1f}", *(f"{mean:.6g}" for mean in means), f"{images_per_second:.1f}"]
        row = (str(step), str(epoch), *numbers)
        self.rows.append(row)
        with (self.run / METRICS_CSV).open("ab") as file:
            file.write(_to_csv([row]))
        for name, mean in zip(METRICS, means, strict=True):
            self._tensorboard.add_scalar(name, mean, step)
        self._tensorboard.add_scalar("images_per_second", images_per_second, step)

    def add_samples(self, step: int, spread: float, grid: Tensor) -> None:
        """Show in TensorBoard the samples of the fixed noise, uint8 [H, W, C], and how much they differ."""
        self._tensorboard.add_scalar("spread", spread, step)
        self._tensorboard.add_image("samples", grid.numpy(), step, dataformats="HWC")

    def draw(self) -> None:
        """Write curves.png, if there is a row yet."""
        if not self.rows:
            return
        # Here, not above: it takes a second, which the first step need not wait for.
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(13, 3.6), layout="constrained")
        FigureCanvasAgg(figure)
        steps = [int(row[0]) for row in self.rows]
        for axes, (title, lines) in zip(figure.subplots(1, len(_PANELS)), _PANELS.items(), strict=True):
            for name, label in lines.items():
                column = COLUMNS.index(name)
                axes.plot(
                    steps, [float(row[column]) for row in self.rows], label=label, marker="." if len(steps) < 3 else ""
                )
            if "d_real" in lines:
                axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")  # the equilibrium
                axes.set_ylim(0, 1)
            axes.set_title(title)
            axes.set_xlabel("step")
            axes.legend()
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        atomic_write(self.run / CURVES, buffer.getvalue())

    def sync(self) -> None:
        """Return when the rows are on the disk."""
        with (self.run / METRICS_CSV).open("ab") as file:
            os.fsync(file.fileno())

    def close(self) -> None:
        """Flush TensorBoard's file and end its thread."""
        try:
            self._tensorboard.close()
        finally:
            threading.excepthook = self._excepthook


def _quiet(error: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread raises its error again in ours; without this it would also print a traceback."""
    if not isinstance(error.exc_value, OSError):
        threading.__excepthook__(error)


def _to_csv(rows: list[tuple[str, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _read_rows(path: Path, last_step: int) -> list[tuple[str, ...]]:
    """The whole rows up to ``last_step``; what a killed run did not finish, or a disk has damaged, is left out."""
    if last_step == 0 or not path.exists():
        return []
    with path.open(newline="", errors="replace") as file:
        rows = [tuple(row) for row in csv.reader(file)]
    return [row for row in rows if _is_whole(row) and int(row[0]) <= last_step]


def _is_whole(row: tuple[str, ...]) -> bool:
    try:
        return len(row) == len(COLUMNS) and [int(row[0]), int(row[1]), *map(float, row[2:])] != []
    except ValueError:
        return False
