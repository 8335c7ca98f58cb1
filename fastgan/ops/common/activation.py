"""The activations that batch norm fuses: one list of names, one forward, one derivative.

The numbers are the ones that kernels receive; csrc/common/activation.h mirrors them when a compiled kernel needs them.
"""

from __future__ import annotations

import enum

import torch
import torch.nn.functional as F


class Activation(enum.IntEnum):
    """``none``: x. ``relu``: max(x, 0), NaN stays NaN, slope 0 at 0. ``leaky_relu``: x if x > 0 else negative_slope *
    x."""

    NONE = 0
    RELU = 1
    LEAKY_RELU = 2


NAMES = {"none": Activation.NONE, "relu": Activation.RELU, "leaky_relu": Activation.LEAKY_RELU}


def parse(name: str) -> Activation:
    """The activation of that name.

    Raises:
        ValueError: the name is not "relu", "leaky_relu" or "none".
    """
    try:
        return NAMES[name]
    except (KeyError, TypeError):
        raise ValueError(f'activation must be "relu", "leaky_relu" or "none", but got {name!r}') from None


def apply(x: torch.Tensor, activation: int, negative_slope: float) -> torch.Tensor:
    """The activation as differentiable torch ops."""
    if activation == Activation.RELU:
        return F.relu(x)
    if activation == Activation.LEAKY_RELU:
        return F.leaky_relu(x, negative_slope)
    return x


def apply_(x: torch.Tensor, activation: int, negative_slope: float) -> torch.Tensor:
    """The activation in place, for tensors that nobody differentiates."""
    if activation == Activation.RELU:
        return x.relu_()
    if activation == Activation.LEAKY_RELU:
        return F.leaky_relu_(x, negative_slope)
    return x


def backward(grad: torch.Tensor, x: torch.Tensor, activation: int, negative_slope: float) -> torch.Tensor:
    """``grad`` times the derivative at ``x``, torch's own kernels: at NaN relu passes grad, leaky_relu slope * grad."""
    if activation == Activation.RELU:
        return torch.ops.aten.threshold_backward(grad, x, 0)
    if activation == Activation.LEAKY_RELU:
        return torch.ops.aten.leaky_relu_backward(grad, x, negative_slope, False)
    return grad
