"""The confusion matrix as a picture."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from fastgan.files import atomic_write
from fastgan.version import __version__

from .accuracy import class_accuracy

MOST_CELLS_WITH_NUMBERS = 20  # classes; more, and the numbers run into each other
LONGEST_NAME = 18
DPI = 120


def save_confusion(path: Path, confusion: Tensor, class_names: Sequence[str], judge_accuracy: float) -> None:
    """Write ``confusion``, int64 [asked, judged], as a PNG: in each row, where the samples of a class asked for went.

    ``class_names``: one for each class; ``judge_accuracy``: the share of real test images the judge names rightly,
    above which no generator is to be expected. The file's text metadata says what it is.

    Raises ValueError if the names are not as many as the classes, ModuleNotFoundError without matplotlib, OSError if
    the file cannot be written (an older one is then still whole).
    """
    if len(class_names) != len(confusion):
        raise ValueError(f"class_names has {len(class_names)} names for {len(confusion)} classes")
    accuracy = class_accuracy(confusion)
    title = (
        f"{accuracy.total:.1%} of {accuracy.samples:,} samples are of the class asked for\n"
        f"(the judge is right on {judge_accuracy:.1%} of the real test images)"
    )
    text = {
        "Software": f"fastgan {__version__}",
        "Description": f"confusion matrix of generated images, class asked for against class judged: {title}",
    }
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a class name in a script the font lacks: drawn as boxes
        _figure(confusion, [_plain(name) for name in class_names], title).savefig(buffer, format="png", metadata=text)
    atomic_write(path, buffer.getvalue())


def _plain(name: str) -> str:
    short = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
    return short.replace("$", r"\$")  # or matplotlib reads it as a formula


def _figure(confusion: Tensor, names: list[str], title: str) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = len(names)
    shares = (confusion.double() / confusion.sum(1, keepdim=True)).numpy()  # of each row
    side = 3.2 + 0.55 * min(classes, 40)
    figure = Figure(figsize=(side + 0.8, side), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    picture = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("class the judge sees")
    axes.set_ylabel("class asked for")
    small = 9 if classes <= MOST_CELLS_WITH_NUMBERS else 5
    axes.set_xticks(range(classes), labels=names, rotation=45, ha="right", rotation_mode="anchor", fontsize=small)
    axes.set_yticks(range(classes), labels=names, fontsize=small)
    bar = figure.colorbar(picture, ax=axes, shrink=0.8, format="{x:.0%}")
    bar.set_label("share of the samples asked for")
    if classes <= MOST_CELLS_WITH_NUMBERS:
        for row in range(classes):
            for column in range(classes):
                share = shares[row, column]
                colour = "white" if share > 0.55 else "black" if share > 0 else "0.7"
                axes.text(column, row, _percent(share), ha="center", va="center", fontsize=8, color=colour)
    return figure


def _percent(share: float) -> str:
    """Percent without the sign; "0" is none at all; less than a half, but not none, is "<1"."""
    if share == 0:
        return "0"
    return "<1" if share < 0.005 else str(int(100 * share + 0.5))
