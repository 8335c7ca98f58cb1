"""Microseconds of the host from a Python call to the launches of its Triton kernels: ``python -m bench host``.

No GPU is needed: tensors are the CPU's, kernels are compiled for an H100, and a stand-in for Triton's driver counts the
launches instead of making them. What torch and CUDA add on a GPU (its allocator, the launch itself) is not in it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

import fastgan
from fastgan import dispatch
from fastgan.functional import conv2d, conv_transpose2d, conv_transpose2d_stats
from fastgan.nn import BatchNormAct2d, ConvTranspose2d, FusedSequential
from fastgan.ops.conv_transpose2d.triton_tiles import Machine


class Row(NamedTuple):
    """The median of the rounds: all of the call, and what is left without Triton's own way to a launch."""

    case: str
    launches: int
    microseconds: float
    own: float


class _Utils:
    """What Triton asks its driver for when it loads a kernel."""

    def load_binary(self, *_: Any) -> tuple[int, ...]:
        return 1, 1, 32, 0, 1024  # module, function, registers, spills, threads at most

    def get_device_properties(self, _: int) -> dict[str, int]:
        return {"max_shared_mem": Machine().shared, "multiprocessor_count": Machine().processors, "warpSize": 32}


class Driver:
    """A GPU's, but for the GPU: counts launches."""

    def __init__(self) -> None:
        self.utils, self.launches = _Utils(), 0

    def launcher_cls(self, *_: Any) -> Callable[..., None]:
        def launch(*_: Any) -> None:
            self.launches += 1

        return launch

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 10 * Machine().major, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@contextlib.contextmanager
def launched_by_nobody() -> Iterator[Driver]:
    """Triton runs on CPU tensors, and its kernels are not launched but counted."""
    from triton.runtime import driver as triton_driver

    rows = [row for row in dispatch._table.values() if "triton" in row]
    before, active, driver = [row["triton"] for row in rows], triton_driver._active, Driver()
    triton_driver.set_active(driver)
    for row in rows:
        row["triton"] = replace(row["triton"], supports=dispatch.always)
    try:
        with fastgan.use_backend("triton"):
            yield driver
    finally:
        triton_driver._active = active
        for row, backend in zip(rows, before, strict=True):
            row["triton"] = backend


@contextlib.contextmanager
def without_triton() -> Iterator[None]:
    """Launches take no time of Triton's either."""
    from triton.runtime.jit import JITFunction

    before = JITFunction.run
    JITFunction.run = lambda *_, **__: None
    try:
        yield
    finally:
        JITFunction.run = before


def cases() -> dict[str, Callable[[], Any]]:
    """Calls on small images in bfloat16, channels_last."""

    def image(*shape: int) -> torch.Tensor:
        tensor = torch.zeros(*shape, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
        return tensor.requires_grad_()

    x, big, weight = image(2, 64, 8, 8), image(2, 32, 16, 16), image(64, 32, 4, 4)
    norm = (torch.zeros(64), torch.ones(64), torch.ones(64), torch.zeros(64), "relu", 0.0)
    children = [ConvTranspose2d(64, 32, 4, 2, 1, bias=False), BatchNormAct2d(32)]
    children += [ConvTranspose2d(32, 16, 4, 2, 1, bias=False), BatchNormAct2d(16)]
    chain, layers = FusedSequential(*children).bfloat16(), nn.Sequential(*children).bfloat16()
    place = {"stride": 2, "padding": 1}
    forward: dict[str, Callable[[], Any]] = {
        "conv_transpose2d": lambda: conv_transpose2d(x, weight, **place),  # type: ignore[arg-type]
        "conv2d with bias and ReLU": lambda: conv2d(big, weight, x[0, :, 0, 0], **place, activation="relu"),  # type: ignore[arg-type]
        "link": lambda: conv_transpose2d_stats(x, weight, **place, norm=norm)[0],  # type: ignore[arg-type]
        "batch norm + ReLU": lambda: children[1](big),
        "two layers, each with its batch norm": lambda: layers(x),
        "the same as FusedSequential": lambda: chain(x),
    }

    def with_backward(function: Callable[[], torch.Tensor]) -> Callable[[], None]:
        gradient = torch.zeros_like(function())
        return lambda: function().backward(gradient)

    both = {f"{name}, with backward": with_backward(function) for name, function in forward.items()}
    return {name: function for pair in zip(forward.items(), both.items(), strict=True) for name, function in pair}


def measure(rounds: int = 15, calls: int = 100) -> list[Row]:
    """A row per case, the rounds of all cases in turn."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with launched_by_nobody() as driver:
            table, launches = cases(), {}
            for name, call in table.items():
                call()  # compiles
                driver.launches = 0
                call()
                launches[name] = driver.launches
            whole, own = [], []
            for _ in range(rounds):
                whole.append([_time(call, calls) for call in table.values()])
                with without_triton():
                    own.append([_time(call, calls) for call in table.values()])
    finally:
        torch.set_num_threads(threads)
    medians = [[sorted(times)[rounds // 2] for times in zip(*found, strict=True)] for found in (whole, own)]
    return [Row(name, launches[name], *times) for name, *times in zip(table, *medians, strict=True)]


def _time(call: Callable[[], Any], calls: int) -> float:
    """Microseconds of a call."""
    began = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - began) / calls * 1e6


def text(rows: list[Row]) -> str:
    """The table in Markdown."""
    lines = ["| call | launches | µs | without Triton's share |", "|---|---|---|---|"]
    lines += [f"| {row.case} | {row.launches} | {row.microseconds:.0f} | {row.own:.0f} |" for row in rows]
    return "\n".join(lines)
