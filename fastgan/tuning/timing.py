"""How long backends take beside each other, on the arguments of a real call."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Run = Callable[[], Any]

#: Interleaved rounds; fewer where a call takes longer than this many seconds.
ROUNDS, FEW_ROUNDS, LONG = 11, 3, 0.05
#: Seconds that a round repeats each candidate for, and at most so many times.
ROUND, MOST_CALLS = 1e-3, 200
#: Who takes more than so many times as long as the fastest at first is not asked again.
HOPELESS = 3.0
_LEAST = 1e-9  # seconds: no clock gives less, and a time is never 0


def seconds(run: Run, device: torch.device, calls: int) -> float:
    """Seconds per call of that many calls in a row, from Python: of launches where these take longer than the work."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(calls):
                run()
            end.record()
            end.synchronize()
            return max(start.elapsed_time(end) / 1e3 / calls, _LEAST)
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    return max((time.perf_counter() - begin) / calls, _LEAST)


def measure(runs: Mapping[str, Run], device: torch.device) -> dict[str, float]:
    """Seconds per call of each: on a GPU the median round; on a CPU, whose time other processes take away, the least.

    What a candidate raises is raised: it said that it can run."""
    for run in runs.values():
        run()  # kernels are compiled, memory is allocated, cuDNN chooses its algorithm
    first = {name: min(seconds(run, device, 1) for _ in range(3)) for name, run in runs.items()}
    best = min(first.values())
    calls = {
        name: min(max(math.ceil(ROUND / each), 1), MOST_CALLS)
        for name, each in first.items()
        if each <= HOPELESS * best
    }
    if len(calls) == 1 < len(runs):
        return first
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS if best <= LONG else FEW_ROUNDS):
        for name, count in calls.items():
            rounds[name].append(seconds(runs[name], device, count))
    middle: Callable[[list[float]], float] = statistics.median if device.type == "cuda" else min
    return {**first, **{name: middle(times) for name, times in rounds.items()}}
