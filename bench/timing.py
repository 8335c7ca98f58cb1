"""Interleaved timing: in every round each contender is timed once, in an order that rotates."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

_SHORTEST = 0.005  # seconds of work per CPU sample, so that the clock's grain does not matter
_L2_FLUSH = 256 << 20  # bytes, more than any GPU's L2


@dataclass(frozen=True)
class Time:
    """Median and the 20 % and 80 % quantiles of a call, in seconds, over ``rounds`` samples."""

    median: float
    q20: float
    q80: float
    rounds: int


def measure(contenders: dict[str, Callable[[], Any]], device: torch.device, budget: float) -> dict[str, Time]:
    """Time every contender side by side.

    Args:
        contenders: callables by name; each was called before.
        device: CUDA is timed by events after emptying its L2 cache, a CPU by the wall clock.
        budget: seconds to spend, about; at least 5 rounds are run.
    """
    sample, names = (_cuda_sampler(device) if device.type == "cuda" else _cpu_sampler(contenders)), list(contenders)
    first = {name: sample(contenders[name], name) for name in names}
    rounds = min(max(int(budget / max(_cost(first, device), 1e-9)), 5), 200)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for offset in range(len(names)):
            name = names[(turn + offset) % len(names)]
            samples[name].append(sample(contenders[name], name))
    return {name: _summary(values) for name, values in samples.items()}


def _cost(first: dict[str, float], device: torch.device) -> float:
    """Seconds of one round. On a GPU the flush and the events cost about 0.2 ms a sample."""
    floor = 2e-4 if device.type == "cuda" else _SHORTEST
    return sum(max(seconds, floor) for seconds in first.values())


def _summary(values: list[float]) -> Time:
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return Time(statistics.median(values), fifths[0], fifths[3], len(values))


def _cpu_sampler(contenders: dict[str, Callable[[], Any]]) -> Callable[[Callable[[], Any], str], float]:
    def seconds(call: Callable[[], Any], number: int) -> float:
        start = time.perf_counter()
        for _ in range(number):
            call()
        return (time.perf_counter() - start) / number

    # the better of two: the first call after another contender's finds cold caches
    numbers = {
        name: math.ceil(_SHORTEST / max(min(seconds(call, 1) for _ in range(2)), 1e-7))
        for name, call in contenders.items()
    }
    return lambda call, name: seconds(call, numbers[name])


def _cuda_sampler(device: torch.device) -> Callable[[Callable[[], Any], str], float]:
    flush = torch.empty(_L2_FLUSH, dtype=torch.int8, device=device)

    def sample(call: Callable[[], Any], _name: str) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        start.record()
        call()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1e3

    return sample


def graphed(call: Callable[[], Any]) -> Callable[[], Any]:
    """``call`` as a CUDA graph: the same kernels without the host's share."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = call()

    def replay() -> Any:
        graph.replay()
        return kept

    return replay
