"""A clock that only backends move, so that times are what a test says; and tables of the test's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fastgan
from fastgan import dispatch
from fastgan.dispatch import Backend
from fastgan.ops.common import triton_runtime
from fastgan.ops.conv_transpose2d import reference
from fastgan.tuning import timing

OPS = tuple(dispatch._keys)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The default folder of the tables, which is not there yet; no table is in use before the test or after it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fastgan.forget_tuning()
    yield tmp_path / "cache" / "fastgan" / "tuning"
    fastgan.forget_tuning()


class Clock:
    """Seconds that each backend takes, "torch's backward" among them, for any op and more for some; what ran, in order;
    what the clock shows."""

    def __init__(self) -> None:
        self.more: dict[str, float] = {}
        self.costs = {"native": 2.0, "triton": 3.0, "reference": 1.0, "torch's backward": 1.0}
        self.ran: list[str] = []
        self.now = 0.0

    def moved_by(self, name: str, run: Callable[..., Any], op: str = "") -> Callable[..., Any]:
        def moving(*args: Any, **options: Any) -> Any:
            self.ran.append(name)
            self.now += self.costs[name] + self.more.get(op, 0.0)
            return run(*args, **options)

        return moving

    def timed(self, call: Callable[[], Any]) -> bool:
        """Whether anything was timed by the call: then backends run many times."""
        self.ran.clear()
        call()
        return len(self.ran) > 6


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Every op's backends run the reference on a CPU and move the clock."""
    clock = Clock()
    for op in OPS:
        real = dispatch._table[op]
        names = [name for name in ("native", "triton", "reference") if name in real]
        monkeypatch.setitem(dispatch._table, op, {name: _backend(clock, name, op, real["reference"]) for name in names})
    monkeypatch.setattr(reference, "gradient", clock.moved_by("torch's backward", reference.gradient))
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    monkeypatch.setattr(triton_runtime, "interpreting", lambda: False)
    return clock


def _backend(clock: Clock, name: str, op: str, real: Backend) -> Backend:
    auto_on = frozenset({"cpu"} if name == "native" else ())
    return dataclasses.replace(real, name=name, run=clock.moved_by(name, real.run, op), auto_on=auto_on)


def up(batch: int = 2, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    """A small transposed convolution; half precision is never left to torch's own op."""
    image, weight = torch.ones(batch, 4, 3, 3, dtype=dtype), torch.ones(4, 2, 4, 4, dtype=dtype)
    return fastgan.functional.conv_transpose2d(image, weight, stride=2, padding=1)


def choice(call: Callable[[], Any]) -> str:
    """The backend that ran the one op of a call."""
    with dispatch.trace() as calls:
        call()
    ((_, name),) = calls
    return name


def fastest(clock: Clock, name: str) -> None:
    """That backend takes half as long as the others."""
    for other in clock.costs:
        clock.costs[other] = 1.0 if other == name else 2.0


def operands() -> list[torch.Tensor]:
    shapes = (2, 4, 6, 6), (8, 4, 4, 4)
    return [torch.ones(shape, dtype=torch.bfloat16, requires_grad=True) for shape in shapes]


def activated(image: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return fastgan.functional.conv2d(image, weight, stride=2, padding=1, activation="relu")
