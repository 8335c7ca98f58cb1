"""The tables of a process: what was measured on each device, by whom a call is computed fastest, and how that is found
out."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

import torch

from fastgan import dispatch
from fastgan.dispatch import Backend, Instead
from fastgan.ops.common import triton_runtime
from fastgan.tuning import machine, store, timing
from fastgan.tuning.store import Entries, Key, Times

Arguments = tuple[Any, ...]


def key_of(op: str, args: Arguments, role: bool | str) -> Key:
    """What the times of a call are kept under: as itself, as a gradient (True) or as a whole by torch."""
    first = args[0]
    return (
        op,
        role,
        *dispatch._keys[op](*_without_effects(op, args)),
        machine.settings(first.device.type, first.dtype),
    )


def usable(backend: Backend, args: Arguments) -> bool:
    """Whether it can run them, and not in Triton's interpreter, whose times say nothing."""
    interpreted = backend.name == "triton" and triton_runtime.interpreting()
    return not interpreted and backend.supports(*args) is None


class Table:
    """The entries of one model of device, and of those that were asked for the fastest backend."""

    def __init__(self) -> None:
        self.entries: Entries = {}
        self.fastest: dict[Key, Backend | None] = {}


class Tables:
    """All tables of the process, and the folder where their files are; what ``dispatch`` asks."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self._by_device: dict[torch.device, Table] = {}
        self._by_name: dict[str, Table] = {}
        self._lock = threading.RLock()  # a gradient is timed with those that it consists of
        self._given_up: set[Path] = set()

    def open(self, folder: Path | None) -> None:
        """Read each device's table from there, when it is first asked for; what was read or measured before stays."""
        self.folder = folder
        self._by_device.clear()
        self._given_up.clear()
        self._changed()

    def forget(self) -> None:
        self.folder = None
        self._by_device.clear()
        self._by_name.clear()
        self._changed()

    def fastest(self, op: str, args: Arguments, gradient: bool) -> Backend | None:
        """The fastest backend of a call among those that can run it now, or None if the table does not know."""
        if op not in dispatch._keys:
            return None
        table = self._by_device.get(args[0].device) or self._read(args[0].device)
        if not table.entries:
            return None
        key = key_of(op, args, gradient)
        try:
            return table.fastest[key]
        except KeyError:
            times = table.entries.get(key)
        if times is None:
            return None
        row = dispatch._table[op]
        names = [name for name in sorted(times, key=times.__getitem__) if name in row and usable(row[name], args)]
        table.fastest[key] = fastest = row[names[0]] if names else None
        return fastest

    def times(self, op: str, args: Arguments, gradient: bool) -> Times | None:
        """The measured seconds of a call by backend, or None if the table does not know."""
        if op not in dispatch._keys:
            return None
        table = self._by_device.get(args[0].device) or self._read(args[0].device)
        return table.entries.get(key_of(op, args, gradient)) if table.entries else None

    def measure(self, op: str, args: Arguments, gradient: bool, instead: Instead | None) -> None:
        """Time a call by every backend that can run it, unless that is known already or cannot be done now."""
        if op not in dispatch._keys or dispatch._forced is not None or not _can_be_timed(args):
            return
        device = args[0].device
        backends = {name: backend for name, backend in dispatch._table[op].items() if usable(backend, args)}
        if len(backends) < 2:
            return
        table, key = self._by_device.get(device) or self._read(device), key_of(op, args, gradient)
        with self._lock:
            if backends.keys() <= table.entries.get(key, {}).keys():
                return
            runs = {name: _run(backend, _without_effects(op, args), instead) for name, backend in backends.items()}
            with torch.no_grad(), dispatch.unrecorded():
                times = timing.measure(runs, device)
            self._add(device, table, {key: times})

    def torchs_time(self, op: str, args: Arguments, gradients: str, run: timing.Run) -> float | None:
        """The seconds of torch's own op with these gradients, timed if a block times what is new."""
        key = key_of(op, args, f"torch {gradients}")
        with self._lock:
            times = self._whole(key, args[0].device, lambda: {"reference": run}, dispatch.is_measuring())
        return times.get("reference")

    def chain_times(self, key: Key, input: torch.Tensor, runs: dispatch.Runs, may_run: bool) -> Times:
        """The seconds of several layers, forward and backward, each way, timed if ``may_run`` says so; none if they are
        not known. No lock is held: on a GPU a backward runs, and times ops, on threads of autograd's."""
        key = ("chain", "whole", input.dtype, *key, machine.settings(input.device.type, input.dtype))
        return self._whole(key, input.device, runs, may_run and _can_be_timed((input,)))

    def has_kernels(self, op: str, device: str) -> bool:
        """Whether another backend than the reference can run the op on that type of device, and has times there; of ops
        whose backends ask for nothing but devices."""
        some = torch.empty(0, device=device)
        return any(usable(backend, (some,)) for name, backend in dispatch._table[op].items() if name != "reference")

    def _whole(self, key: Key, device: torch.device, runs: dispatch.Runs, may_run: bool) -> Times:
        """The seconds of what consists of several calls, timed if they are not known and ``may_run`` says so."""
        table = self._by_device.get(device) or self._read(device)
        if key not in table.entries and may_run:
            with torch.no_grad(), dispatch.unrecorded():
                times = timing.measure(runs(), device)
            self._add(device, table, {key: times})
        return table.entries.get(key, {})

    def _read(self, device: torch.device) -> Table:
        """The table of a device with what its file holds."""
        with self._lock:
            identity = machine.identity(device)
            table = self._by_name.setdefault(machine.file_name(identity), Table())
            wrong = None
            if self.folder is not None:
                path = self.folder / machine.file_name(identity)
                try:
                    table.entries = store.merged(store.read(path, identity), table.entries)
                except (OSError, store.Rejected) as error:
                    wrong = f"{path} is not used: {error}"
            self._by_device[device] = table
            self._changed()
        if wrong is not None:
            warnings.warn(wrong, RuntimeWarning, stacklevel=2)
        return table

    def _add(self, device: torch.device, table: Table, entries: Entries) -> None:
        """Keep entries here and in the file; only here once that could not be written."""
        with self._lock:
            self._keep(device, table, entries)

    def _keep(self, device: torch.device, table: Table, entries: Entries) -> None:
        table.entries = store.merged(table.entries, entries)
        self._changed()
        if self.folder is None or self.folder in self._given_up:
            return
        identity = machine.identity(device)
        try:
            table.entries = store.add(self.folder / machine.file_name(identity), identity, table.entries)
        except OSError as error:
            self._given_up.add(self.folder)
            message = f"{self.folder} cannot be written ({error}): what is measured now is forgotten with this process"
            warnings.warn(message, RuntimeWarning, stacklevel=2)

    def _changed(self) -> None:
        for table in self._by_name.values():
            table.fastest.clear()
        for choices in dispatch.remembered:
            choices.clear()


def _without_effects(op: str, args: Arguments) -> Arguments:
    """The arguments without those that the op writes to."""
    written = dispatch._written[op]
    return tuple(None if i in written else arg for i, arg in enumerate(args)) if written else args


def _can_be_timed(args: Arguments) -> bool:
    """Whether these are values on a device with a clock of ours, and no CUDA graph is being captured."""
    if any(isinstance(arg, torch.Tensor) and arg.numel() == 0 for arg in args):
        return False
    device = args[0].device
    if device.type != "cuda":
        return bool(device.type == "cpu")
    with torch.cuda.device(device):
        return not torch.cuda.is_current_stream_capturing()


def _run(backend: Backend, args: Arguments, instead: Instead | None) -> timing.Run:
    """What runs where ``backend`` is chosen."""
    if backend.name != "reference" or instead is None:
        return lambda: backend.run(*args)

    def run() -> Any:
        result = instead()
        return backend.run(*args) if result is None else result

    return run
