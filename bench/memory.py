"""Peak memory of a case on a CPU: how far the resident memory of a fresh process grows.

torch's profiler sees only what torch's allocator gives out. The libraries below (oneDNN's scratch pads, our kernels'
workspaces) allocate by themselves, so the process is asked: the highest resident size (VmHWM) from before the tensors
are set up until three calls are over, less the resident size before. A batch of two goes first and loads the code.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import json
import subprocess
import sys
from pathlib import Path

import torch

from bench.case import Case, Setting
from bench.machine import ROOT
from bench.providers import provider

CALLS = 3
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class NotMeasuredError(RuntimeError):
    """The message says why there is no figure."""


def _status(field: str) -> int:
    """A field of /proc/self/status, in bytes."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return 1024 * int(line.split()[1])


def growth(case: Case, name: str, setting: Setting) -> int:
    """Bytes, in this process, which should be a fresh one."""
    small = dataclasses.replace(setting, batch=2)
    provider(name).make(case.setup(small), small)()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)
    _CLEAR.write_text("5")  # resets the highest resident size
    before = _status("VmRSS")
    call = provider(name).make(case.setup(setting), setting)
    for _ in range(CALLS):
        call()
    return _status("VmHWM") - before


def peak(case: Case, name: str, setting: Setting) -> int:
    """Bytes, measured in a process of its own.

    Raises:
        NotMeasuredError: the system does not tell, or the process failed.
    """
    if setting.device.type != "cpu" or not _CLEAR.exists():
        raise NotMeasuredError("only on a CPU, under Linux, is it asked of the system")
    request = {"case": case.id, "name": name, "batch": setting.batch, "channels_last": setting.channels_last}
    request |= {"threads": torch.get_num_threads()}
    command = [sys.executable, "-m", "bench.memory", json.dumps(request)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise NotMeasuredError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    return int(done.stdout.split()[-1])


def _child(request: dict[str, object]) -> None:
    from bench.cases import CASES

    torch.set_num_threads(int(str(request["threads"])))
    case = next(case for case in CASES if case.id == request["case"])
    layout, batch = bool(request["channels_last"]), int(str(request["batch"]))
    print(growth(case, str(request["name"]), Setting(torch.device("cpu"), torch.float32, layout, batch)))


if __name__ == "__main__":
    _child(json.loads(sys.argv[1]))
