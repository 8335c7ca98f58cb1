"""The folder of a run: its files by name, and who may write to it."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKPOINT = "checkpoint.pt"
LOSSES = "losses.csv"
SAMPLES = "samples"
EVALUATION = "evaluation.json"
JUDGE = "judge.pt"
LOCK = ".lock"


class RunError(RuntimeError):
    """A run folder that must not be written to. The message is one line and says what to do."""


@contextmanager
def open_run(path: Path, overwrite: bool) -> Iterator[None]:
    """Hold the folder ``path`` for a new run, creating it if need be.

    With ``overwrite`` the files of an earlier run are deleted from it, by name; any other file stays.

    Raises RunError if a run is going on there, or if there is anything in it and ``overwrite`` is False.
    """
    if path.exists() and not path.is_dir():
        raise RunError(f"{path} is a file: choose a folder with --out")
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise RunError(f"{path} is not empty: choose another --out, or --overwrite to replace the run in it")
    path.mkdir(parents=True, exist_ok=True)
    with (path / LOCK).open("w") as lock:  # released by the system however this process ends
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{path} is in use by another run: choose another --out") from error
        for name in (CHECKPOINT, LOSSES, EVALUATION, JUDGE):
            (path / name).unlink(missing_ok=True)
        for picture in (path / SAMPLES).glob("step-*.png"):
            picture.unlink()
        (path / SAMPLES).mkdir(exist_ok=True)
        yield
