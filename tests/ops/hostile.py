"""Hostile surroundings for the Triton convolutions: programs in random order, outputs that start as NaN, guard bands
around them. conftest.py has the fixtures."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

import fastgan
from fastgan.ops.conv_transpose2d import triton_tiles as tiles
from tests.checks import backend_reason

GUARD, CANARY = 64, 12345.0


def launch() -> Any:
    from fastgan.ops.conv_transpose2d import triton_launch

    return triton_launch


def links() -> Any:
    from fastgan.ops.conv_transpose2d.chain import triton_launch

    return triton_launch


def plans() -> Any:
    from fastgan.ops.conv_transpose2d import triton_plans

    return triton_plans


def arguments() -> Any:
    from fastgan.ops.conv_transpose2d import triton_arguments

    return triton_arguments


@pytest.fixture
def hostile(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Triton or nothing; what its launcher allocates is NaN between guard bands, its programs run in random order."""
    reason = backend_reason("triton", device)
    if reason is not None:
        pytest.skip(reason)
    buffers: list[tuple[torch.Tensor, torch.Tensor]] = []
    real = launch().empty

    def guarded(shape: tuple[int, ...], like: torch.Tensor, *rest: Any) -> torch.Tensor:
        model = real(shape, like, *rest)
        buffer = torch.full((model.numel() + 2 * GUARD,), CANARY, dtype=model.dtype, device=model.device)
        view = buffer.as_strided(model.shape, model.stride(), GUARD)
        view.fill_(float("nan"))
        buffers.append((buffer, view))
        return view

    for module in (launch(), arguments(), links()):
        monkeypatch.setattr(module, "empty", guarded)
    if device.type == "cpu":
        shuffle_programs(monkeypatch)
        add_as_a_tree(monkeypatch)
    plans().forget()  # they depend on what a test may replace
    with fastgan.use_backend("triton"):
        yield
    plans().forget()
    for buffer, view in buffers:
        for band in (buffer[:GUARD], buffer[GUARD + view.numel() :]):
            assert torch.equal(band, torch.full_like(band, CANARY)), "a kernel wrote beside its output"


def shuffle_programs(monkeypatch: pytest.MonkeyPatch, seed: int = 0) -> None:
    from triton.runtime import interpreter

    def shuffled(*bounds: int) -> list[int]:
        order = list(range(*bounds))
        random.Random(seed).shuffle(order)
        return order

    monkeypatch.setattr(interpreter, "range", shuffled, raising=False)


def add_as_a_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU adds up a tile's rows as a tree; the interpreter one after the other, with the error of that."""
    from triton.runtime import interpreter

    def total(self: Any, tensor: Any) -> Any:
        data = (
            np.moveaxis(tensor.handle.data, self.axis or 0, 0) if self.axis is not None else tensor.handle.data.ravel()
        )
        while len(data) > 1:
            odd = data[2 * (len(data) // 2) :]
            data = np.concatenate([data[0 : len(data) - 1 : 2] + data[1::2], odd])
        data = np.expand_dims(data[0], self.axis) if self.keep_dims else data[0]
        return self.to_tensor(data, tensor.dtype)

    monkeypatch.setattr(interpreter.ReduceOps, "sum", total)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that are launched."""
    from triton.runtime import interpreter, jit

    names: list[str] = []
    for kind, method in ((interpreter.InterpretedFunction, "run"), (jit.JITFunction, "run")):
        real = getattr(kind, method)

        def run(self: Any, *args: Any, real: Any = real, **options: Any) -> Any:
            names.append(self.fn.__name__)
            return real(self, *args, **options)

        monkeypatch.setattr(kind, method, run)
    return names


def force(monkeypatch: pytest.MonkeyPatch, tile: tiles.Tile) -> None:
    monkeypatch.setattr(tiles, "choose", lambda *_: tile)
    plans().forget()
