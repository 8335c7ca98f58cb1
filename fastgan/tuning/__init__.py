"""Measured choices: which backend is the fastest on this machine, for the calls of a program as they come.

``fastgan.autotune`` times calls that are new and keeps what it finds in a table on disk; ``fastgan.load_tuning`` uses
such a table without timing anything. Without either nothing is read, so that a program's numbers depend on no other
program's: backends round differently.

A call is known by what its time depends on (fastgan/ops/common/tuning_key.py: shapes, strides, dtype, the
batch's power of two) and by the process's settings: threads on a CPU; on a GPU TF32, ``torch.backends.cudnn.benchmark``
and deterministic algorithms. Times are those of calls from eager Python, in a row: of the launches, where these take
longer than the work. A gradient's reference is torch's own backward, as it is where it runs.

Microseconds that choosing the backend of a transposed convolution takes (AMD EPYC, one thread, Python 3.11, least of
400 interleaved rounds): without a table 8.7, as before there were any; with one that knows the call 4.1, as neither
backends nor models of their time are asked; with one that does not 13.8; with an empty one 9.6.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fastgan import dispatch
from fastgan.files import cache_folder
from fastgan.tuning import machine, store
from fastgan.tuning.tables import Tables

__all__ = ["autotune", "forget_tuning", "load_tuning"]

_tables = Tables()


@contextlib.contextmanager
def autotune(path: str | os.PathLike[str] | None = None) -> Iterator[None]:
    """Time each new kind of call inside the ``with`` block, and use the fastest backend for it from then on.

    Forward and backward, each call of a function of ``fastgan.functional`` that the table does not know is run several
    times by every backend that can run it (torch's cuDNN or oneDNN, Triton, native), on its own arguments, which takes
    as long as some fifteen calls of each, at least tens of milliseconds; then it runs as usual, by the fastest. Running
    statistics are updated once, as ever. Layers of a :class:`fastgan.nn.FusedSequential` that can be a chain are timed
    as a chain and one by one, on copies, and run as what was the faster; where no kernel of ours can run a chain, as on
    a CPU, they are not. The table is written to disk with each new entry and read when the block begins: a few steps of
    a training fill it, and later ones, inside a block, outside or in other processes (:func:`load_tuning`), time
    nothing. Of float32 calls on a CPU, which may be left to torch's own op with its own backward, that is timed too;
    once all is known, the times decide.

    A backend that is forced (:func:`fastgan.use_backend`) is used and nothing is timed. Nothing is timed either while a
    CUDA graph is captured, by code that is compiled or exported, under ``torch.vmap``, dispatch modes and profilers,
    and for empty images: there the table is only looked up. So run a few eager steps before you compile or capture.
    Triton's interpreter is never timed. The setting holds for the whole process, like a forced backend.

    Backends round differently, within the same bounds: numbers may change by a rounding when the table does. Several
    processes may fill one table at once; what one has written the others take over.

    Args:
        path: the folder of the tables, by default ``fastgan/tuning`` in $XDG_CACHE_HOME (~/.cache). Each device with
            its versions of fastgan, torch, Triton and cuDNN has a file of its own there. If it cannot be written a
            warning says so, and the table lives as long as the process. A file that is no such table, or a damaged
            one, is not used, and moved aside (``.rejected-1``) when a new one is written; warnings say both.

    Raises:
        Exception: whatever a backend raises when it is timed, since it had said that it can run. Nothing is kept then.

    Example:
        >>> import tempfile, torch, fastgan
        >>> image, weight = torch.ones(2, 16, 8, 8), torch.ones(16, 8, 4, 4)
        >>> with tempfile.TemporaryDirectory() as folder, fastgan.autotune(folder):
        ...     fastgan.functional.conv_transpose2d(image, weight, stride=2, padding=1).shape
        torch.Size([2, 8, 16, 16])
        >>> fastgan.forget_tuning()
    """
    folder, measure = _tables.folder, dispatch._measure
    load_tuning(path)
    dispatch._measure = _tables.measure
    try:
        yield
    finally:
        _tables.folder, dispatch._measure = folder, measure


def load_tuning(path: str | os.PathLike[str] | None = None) -> None:
    """Let the backends be chosen by the tables that :func:`autotune` has written, and time nothing.

    A device's table is read at the first convolution on it. Calls that it does not know are chosen for as without it.

    Args:
        path: the folder of the tables, as for :func:`autotune`.

    Raises:
        TypeError: ``path`` is no path. What is wrong with a file is a warning, at the first convolution.

    Example:
        >>> import tempfile, fastgan
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fastgan.load_tuning(folder)
        >>> fastgan.forget_tuning()
    """
    _tables.open(_folder(path))
    dispatch._tables = _tables


def forget_tuning() -> None:
    """Choose backends as if nothing had been measured or loaded; files stay as they are.

    Example:
        >>> import fastgan
        >>> fastgan.forget_tuning()
    """
    _tables.forget()
    if dispatch._measure is None:  # a block goes on measuring, for itself
        dispatch._tables = None


def _folder(path: str | os.PathLike[str] | None) -> Path | None:
    if path is not None:
        return Path(path)
    try:
        return cache_folder() / "tuning"
    except RuntimeError as error:  # a user without a home
        warnings.warn(f"no folder for what is measured: {error}", RuntimeWarning, stacklevel=4)
        return None


def describe(device: torch.device) -> dict[str, Any]:
    """Of a device's table in the default folder, or in the one in use: its ``file``, how many ``entries`` are in it and
    how many of them ``apply`` with the settings of this process, whether it is ``in_use``, and what is ``wrong``."""
    folder = _tables.folder if _tables.folder is not None else _folder(None)
    if folder is None:
        return {"file": None, "entries": 0, "apply": 0, "in_use": False, "wrong": "no folder"}
    identity, wrong = machine.identity(device), None
    path = folder / machine.file_name(identity)
    entries: store.Entries = {}
    try:
        entries = store.read(path, identity)
    except (OSError, store.Rejected) as error:
        wrong = str(error)
    apply = sum(key[-1] == machine.settings(device.type, key[2]) for key in entries)
    in_use = dispatch._tables is not None
    return {"file": str(path), "entries": len(entries), "apply": apply, "in_use": in_use, "wrong": wrong}
