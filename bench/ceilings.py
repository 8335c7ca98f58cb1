"""What the machine can do at best, measured in the run that the figures are of: the roof of the roofline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench.timing import measure

GEMM_SIZE = {"cpu": 1536, "cuda": 8192}
COPY_BYTES = {"cpu": 128 << 20, "cuda": 1 << 30}  # beyond the last cache of most machines


def ceilings(device: torch.device, budget: float = 1.0) -> dict[str, Any]:
    """GFLOP/s of torch's float32 matrix product (TF32 as torch has it by default), GB/s of a copy (read + written)."""
    size, count = GEMM_SIZE[device.type], COPY_BYTES[device.type] // 4
    a, b, c = (torch.randn(size, size, device=device) for _ in range(3))
    source, target = torch.ones(count, device=device), torch.empty(count, device=device)
    calls: dict[str, Callable[[], Any]] = {
        "gemm": lambda: torch.mm(a, b, out=c),
        "copy": lambda: target.copy_(source),
    }
    for call in calls.values():
        call()
    times = measure(calls, device, budget)
    # the quick fifth: a ceiling is what the machine reaches when nothing disturbs it
    facts = {"gemm_gflops": 2 * size**3 / times["gemm"].q20 / 1e9, "copy_gbs": 8 * count / times["copy"].q20 / 1e9}
    return {"threads": torch.get_num_threads(), **{name: round(value, 2) for name, value in facts.items()}}
