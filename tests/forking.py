"""A server that has imported torch once and forks for each pytest run, in the environment that pytest itself had.

It has also imported what else of other people's the runs import, and its garbage collector knows all that to be alive:
a run then takes half a second where it took one and a half.

A script, run with ``python -I``: nothing of ``tests`` or fastgan may be imported before the fork. One JSON object per
line in, {"folder", "arguments", "output", "seconds"}: pytest runs in that folder, which comes first on sys.path, and
writes to that file. One line out: its exit code, or the negative number of the signal that ended it (SIGKILL: out of
time).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import sys
import time
from typing import Any, NoReturn

import pytest

#: What the runs import. torch.optim, for one, brings torch._dynamo: seconds each time.
MODULES = (
    "torch._dynamo",
    "torch.testing",
    "torch.utils.flop_counter",
    "hypothesis.internal.conjecture.providers",
    "triton.language",
    "triton.runtime.interpreter",
    "numpy.testing",
    "scipy.linalg",
    "PIL.Image",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "torch.utils.tensorboard",
)
#: pytest's plugins by name: those that it finds by itself must not be imported before it is asked to.
PLUGINS = ("-p", "pytest_timeout", "-p", "_hypothesis_pytestplugin")


def run(folder: str, arguments: list[str], output: str) -> NoReturn:
    code = os.EX_SOFTWARE  # in case pytest does not come back
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        file = os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.chdir(folder)
        os.environ |= {"PYTHONPATH": folder, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        sys.dont_write_bytecode = False  # the next run in this folder need not compile again what is as it was
        sys.path.insert(0, folder)
        code = int(pytest.main([*PLUGINS, *arguments]))
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = os.EX_IOERR
    finally:
        os._exit(code)


def wait(child: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.02)


def main() -> None:
    for module in MODULES:
        with contextlib.suppress(ImportError):  # what is optional for fastgan is for the tests, too
            importlib.import_module(module)
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        job: dict[str, Any] = json.loads(line)
        seconds = job.pop("seconds")
        child = os.fork()
        if child == 0:
            run(**job)
        print(wait(child, seconds), flush=True)


if __name__ == "__main__":
    main()
