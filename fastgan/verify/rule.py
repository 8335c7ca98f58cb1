"""The numerics rule: ``err(ours, float64) <= 2 * err(torch at that dtype, float64) + 2 ulp``."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Verdict:
    """How one result stands. ``error`` and ``torch_error``: largest absolute difference to float64, infinite where NaN
    stands in other places, or where shape or dtype differ; ``allowed``: what the rule grants."""

    error: float
    torch_error: float
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether the rule holds."""
        return self.error <= self.allowed

    @property
    def strain(self) -> float:
        """``error / allowed``: the rule holds up to 1."""
        return self.error / self.allowed if self.allowed else (math.inf if self.error else 0.0)

    @property
    def ratio(self) -> float:
        """``error / torch_error``, 0 where both are exact."""
        return self.error / self.torch_error if self.torch_error else (math.inf if self.error else 0.0)


def largest_error(result: torch.Tensor, judge: torch.Tensor) -> float:
    """Largest absolute difference; equal infinities, and NaN where the judge has NaN, count as 0."""
    result, judge = result.detach().double(), judge.detach()
    if result.shape != judge.shape or not torch.equal(result.isnan(), judge.isnan()):
        return math.inf
    difference = (result - judge).abs()[~((result == judge) | judge.isnan())]
    return float(difference.max()) if difference.numel() else 0.0


def judge_result(ours: torch.Tensor, torch_result: torch.Tensor, judge: torch.Tensor) -> Verdict:
    """The verdict on ``ours``; ``judge`` is float64, ``torch_result`` torch's own at the dtype that is checked."""
    finite = judge.detach().abs().nan_to_num(0.0, 0.0, 0.0)
    ulp = torch.finfo(torch_result.dtype).eps * (float(finite.max()) if finite.numel() else 0.0)
    torch_error = largest_error(torch_result, judge)
    error = largest_error(ours, judge) if ours.dtype == torch_result.dtype else math.inf
    return Verdict(error, torch_error, 2 * torch_error + 2 * ulp)
