"""The table on disk: one JSON file per device and version, that several processes may fill at once.

What is in a file is data, and may be anything: it is checked in full before it is used, and a file that is not such a
table is never overwritten but moved aside, by a warning that names it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import stat
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fastgan.dispatch import BACKENDS
from fastgan.files import atomic_write

Key = tuple[Any, ...]
Times = dict[str, float]  # seconds of each backend
Entries = dict[Key, Times]

FORMAT = 1
MOST_BYTES = 1 << 24  # some 30,000 entries
PATIENCE = 20.0  # seconds that another process may hold the lock: it merges and writes one small file


class Rejected(ValueError):
    """A file is not a table of this device and these versions; the message says why."""


def read(path: Path, identity: dict[str, str]) -> Entries:
    """The entries of a file; none if there is no file.

    Raises:
        Rejected: it is not a table, or one of something else.
        OSError: it cannot be read.
    """
    try:
        text = _content(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    try:
        content = json.loads(text)
        if type(content) is not dict or content.get("format") != FORMAT:
            raise Rejected(f"it is no table of format {FORMAT}")
        if content.get("identity") != identity:
            raise Rejected(f"it is a table of {content.get('identity')}, not of {identity}")
        return dict(_entry(item) for item in content["entries"])
    except Rejected:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Rejected(f"it is damaged ({type(error).__name__}: {error})") from error


def _content(path: Path) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # opening a pipe would wait for a writer
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise Rejected("it is not a file")
        with open(handle, "rb", closefd=False) as file:
            text = file.read(MOST_BYTES + 1)
    finally:
        os.close(handle)
    if len(text) > MOST_BYTES:
        raise Rejected(f"it is larger than {MOST_BYTES} bytes")
    return text


def _entry(item: Any) -> tuple[Key, Times]:
    key, times = _frozen(item["key"]), item["seconds"]
    if type(key) is not tuple or type(times) is not dict or not times:
        raise ValueError(f"an entry is {str(item)[:100]}")
    for name, value in times.items():
        if name not in BACKENDS or type(value) is not float or not math.isfinite(value) or value <= 0:
            raise ValueError(f"{str(value)[:100]} seconds of {name[:100]!r}")
    return key, times


def _frozen(value: Any) -> Any:
    """A key from JSON: tuples for lists, dtypes for their names."""
    if type(value) is list:
        return tuple(_frozen(item) for item in value)
    if type(value) is str and value.startswith("torch."):
        dtype = getattr(torch, value[6:], None)
        return dtype if isinstance(dtype, torch.dtype) else value
    if type(value) in (str, int, bool, type(None)):
        return value
    raise ValueError(f"{str(value)[:100]} in a key")


def _thawed(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_thawed(item) for item in value]
    return str(value) if isinstance(value, torch.dtype) else value


def merged(entries: Entries, new: Entries) -> Entries:
    """Both. Of two with one key the older stays, so that processes that measure the same agree afterwards, unless it
    lacks a backend that the new one has."""
    lacking = {key: times for key, times in new.items() if not times.keys() <= entries.get(key, {}).keys()}
    return {**entries, **lacking}


def add(path: Path, identity: dict[str, str], entries: Entries) -> Entries:
    """Merge entries into the file and return all that it holds then.

    A file that is no table is moved aside first, with a warning.

    Raises:
        OSError: the folder cannot be written, or another process keeps the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    moved = None
    with _locked(path.with_name(f"{path.name}.lock")):
        try:
            found = read(path, identity)
        except Rejected as error:
            aside = _free(path)
            os.replace(path, aside)
            found, moved = {}, f"{path}: {error}; moved to {aside.name}, and a new table is begun"
        together = merged(found, entries)
        items = [{"key": _thawed(key), "seconds": times} for key, times in together.items()]
        lines = ",\n".join(map(json.dumps, items))
        head = f'"format": {FORMAT}, "identity": {json.dumps(identity)}'
        atomic_write(path, f'{{{head}, "entries": [\n{lines}\n]}}\n'.encode())
    if moved is not None:
        warnings.warn(moved, RuntimeWarning, stacklevel=2)
    return together


def _free(path: Path) -> Path:
    number = 1
    while os.path.lexists(aside := path.with_name(f"{path.name}.rejected-{number}")):
        number += 1
    return aside


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process at a time is within; the lock goes with the process, whatever ends it."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    try:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.01)
        yield
    finally:
        os.close(handle)
