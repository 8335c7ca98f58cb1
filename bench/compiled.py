"""Whether torch.compile slows our networks down: ``python -m bench compiled``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fastgan import models

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "DCGAN generator": models.DCGANGenerator,
    "DCGAN discriminator": models.DCGANDiscriminator,
    "cGAN generator": models.CGANGenerator,
    "cGAN discriminator": models.CGANDiscriminator,
}


def _inputs(network: Any, batch: int) -> tuple[torch.Tensor, ...]:
    if hasattr(network, "z_dim"):
        first = torch.randn(batch, network.z_dim)
    else:
        first = torch.randn(batch, network.channels, network.image_size, network.image_size).tanh()
    return (first, torch.randint(10, (batch,))) if hasattr(network, "classes") else (first,)


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def ratio(name: str, training: bool, batch: int, rounds: int) -> tuple[float, float]:
    """(milliseconds eager, eager's time / the compiled network's), medians of ``rounds`` in which they alternate.

    In training forward and backward, else forward alone.
    """
    network = NETWORKS[name]().to(memory_format=torch.channels_last).train(training)
    inputs = _inputs(network, batch)

    def runner(function: Callable[..., torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            with torch.set_grad_enabled(training):
                output = function(*inputs)
            if training:
                output.sum().backward()

        return run

    calls = [runner(network), runner(torch.compile(network, fullgraph=True))]
    for call in calls * 3:
        call()
    pairs = [[_seconds(call) for call in calls] for _ in range(rounds)]
    eager, compiled = (statistics.median(column) for column in zip(*pairs, strict=True))
    return eager * 1e3, eager / compiled


def main(batch: int, rounds: int) -> int:
    """Print one line per network and mode. Returns 0."""
    for name in NETWORKS:
        for training in (True, False):
            milliseconds, value = ratio(name, training, batch, rounds)
            mode = "training" if training else "eval"
            print(f"{name}, {mode}: eager {milliseconds:.1f} ms, eager / compiled {value:.2f}", flush=True)
    return 0
