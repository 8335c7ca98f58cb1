"""``python -m bench host``: what is launched, and that a stand-in for Triton's driver is gone afterwards."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.ops.triton_compile import missing_tools

needs_tools = pytest.mark.skipif(missing_tools() is not None, reason=str(missing_tools()))

#: Launches of each case: forward, and with backward.
LAUNCHES = {
    "conv_transpose2d": (1, 3),
    "conv2d with bias and ReLU": (1, 3),
    "link": (2, 5),
    "batch norm + ReLU": (3, 6),
    "two layers, each with its batch norm": (8, 18),
    "the same as FusedSequential": (5, 13),
}


def alone(*arguments: str) -> str:
    """What a process prints that does not interpret kernels."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_tools
@pytest.mark.slow
def test_launches_are_counted_and_none_is_made():
    table = alone("-m", "bench", "host", "--rounds", "1", "--calls", "2")
    rows = re.findall(r"^\| (.+) \| (\d+) \| (\d+) \| (\d+) \|$", table, re.M)
    found = {name: int(launches) for name, launches, *_ in rows}
    expected = {}
    for name, (forward, both) in LAUNCHES.items():
        expected |= {name: forward, f"{name}, with backward": both}
    assert found == expected
    assert all(int(microseconds) > 0 for *_, microseconds, _ in rows)


@needs_tools
def test_the_driver_comes_back():
    code = (
        "from bench import host; from fastgan import dispatch; from triton.runtime import driver\n"
        "before, table = driver._active, {op: dict(row) for op, row in dispatch._table.items()}\n"
        "with host.launched_by_nobody() as stand_in:\n"
        "    assert driver.active is stand_in and dispatch.forced() == 'triton'\n"
        "assert driver._active is before and dispatch.forced() is None\n"
        "assert {op: dict(row) for op, row in dispatch._table.items()} == table\n"
    )
    alone("-c", code)
