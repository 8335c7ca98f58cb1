"""On which side of its kink every activation was, so that the judge can be put on the same one.

A value within rounding of 0 before a ReLU may be on either side of it. Both slopes are right there, yet the gradients
of a network differ by much more than rounding where one activation of a million has the other slope. So a network's
gradients are judged by the float64 network whose activations have the slopes that they had in the run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

Sides = list[Tensor]  # per call of an activation, in the order of the calls: where its output was positive
ROUNDINGS = 100  # a value may be on the other side within that many times eps of the values' root mean square,
MOST = 0.05  # and no more than this share of them


class OtherSideError(AssertionError):
    """An activation has the other slope where its value is not within rounding of 0."""


@contextlib.contextmanager
def recorded() -> Iterator[Sides]:
    """Collects the sides of all activations that run within, torch's modules and ours."""
    sides: Sides = []

    def hook(module: nn.Module, _args: Any, output: Any) -> None:
        ours = type(module).__module__.startswith("fastgan.nn") and getattr(module, "activation", "none")
        if isinstance(module, nn.ReLU | nn.LeakyReLU) or ours in ("relu", "leaky_relu"):
            sides.append(output.detach() > 0)

    handle = nn.modules.module.register_module_forward_hook(hook)
    try:
        yield sides
    finally:
        handle.remove()


class Judge:
    """Puts the activations of float64 networks on recorded sides.

    Attributes:
        strict: whether the other side raises where the value is not small; off once an optimizer has made a step,
            after which two runs are not equal to rounding.
    """

    def __init__(self, sides: Sides, dtype: torch.dtype) -> None:
        self._sides, self._most = list(reversed(sides)), ROUNDINGS * torch.finfo(dtype).eps
        self.strict = True

    def finish(self) -> None:
        """Raises OtherSideError where the run had more activations."""
        if self._sides:
            raise OtherSideError(f"{len(self._sides)} activations more than the judge's network has")

    def place(self, network: nn.Module) -> nn.Module:
        """``network`` with every ReLU and LeakyReLU replaced."""
        for parent in list(network.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.ReLU | nn.LeakyReLU):
                    setattr(parent, name, _Placed(self, getattr(child, "negative_slope", 0.0)))
        return network

    def activate(self, input: Tensor, slope: float) -> Tensor:
        if not self._sides or self._sides[-1].shape != input.shape:
            raise OtherSideError("the run had other activations than the judge's network")
        positive, values = self._sides.pop(), input.detach()
        other = positive != (values > 0)
        if self.strict and other.any():
            farthest = float(values[other].abs().max() / values.square().mean().sqrt())
            if not farthest <= self._most or float(other.double().mean()) > MOST:
                raise OtherSideError(f"activations have the other slope, the farthest at {farthest:.2g} of the values")
        return torch.where(positive, input, slope * input)


class _Placed(nn.Module):
    def __init__(self, judge: Judge, slope: float) -> None:
        super().__init__()
        self.judge, self.slope = judge, slope

    def forward(self, input: Tensor) -> Tensor:
        return self.judge.activate(input, self.slope)
