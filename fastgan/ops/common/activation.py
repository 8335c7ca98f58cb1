"""The activations that other ops fuse: names, forward, and the derivative by the value before and by the one after.

The numbers are the ones that kernels receive; csrc/common/activation.h mirrors them.
"""

from __future__ import annotations

import enum

import torch
import torch.nn.functional as F


class Activation(enum.IntEnum):
    """``none``: x. ``relu``: max(x, 0), NaN stays NaN, slope 0 at 0. ``leaky_relu``: x if x > 0 else negative_slope *
    x. ``tanh``: tanh(x), of convolutions only."""

    NONE = 0
    RELU = 1
    LEAKY_RELU = 2
    TANH = 3


NAMES = {"none": Activation.NONE, "relu": Activation.RELU, "leaky_relu": Activation.LEAKY_RELU}
AFTER_CONVOLUTIONS = {**NAMES, "tanh": Activation.TANH}


def parse(name: str) -> Activation:
    """The activation of that name, after a batch norm.

    Raises:
        ValueError: the name is not "relu", "leaky_relu" or "none".
    """
    try:
        return NAMES[name]
    except (KeyError, TypeError):
        raise ValueError(f'activation must be "relu", "leaky_relu" or "none", but got {name!r}') from None


def parse_after_convolution(name: str, negative_slope: float) -> Activation:
    """The activation of that name, after a convolution, whose backward knows the output alone.

    Raises:
        ValueError: the name is not "relu", "leaky_relu", "tanh" or "none"; a slope of "leaky_relu" that is not >= 0:
            the sign of the output would not be that of the value before.
    """
    try:
        activation = AFTER_CONVOLUTIONS[name]
    except (KeyError, TypeError):
        raise ValueError(f'activation must be "relu", "leaky_relu", "tanh" or "none", but got {name!r}') from None
    if activation == Activation.LEAKY_RELU and not negative_slope >= 0:
        raise ValueError(f"negative_slope must be >= 0 after a convolution, but got {negative_slope}")
    return activation


def apply(x: torch.Tensor, activation: int, negative_slope: float) -> torch.Tensor:
    """The activation as differentiable torch ops."""
    if activation == Activation.RELU:
        return F.relu(x)
    if activation == Activation.LEAKY_RELU:
        return F.leaky_relu(x, negative_slope)
    if activation == Activation.TANH:
        return x.tanh()
    return x


def apply_(x: torch.Tensor, activation: int, negative_slope: float) -> torch.Tensor:
    """The activation in place, for tensors that nobody differentiates."""
    if activation == Activation.RELU:
        return x.relu_()
    if activation == Activation.LEAKY_RELU:
        return F.leaky_relu_(x, negative_slope)
    if activation == Activation.TANH:
        return x.tanh_()
    return x


def backward(grad: torch.Tensor, x: torch.Tensor, activation: int, negative_slope: float) -> torch.Tensor:
    """``grad`` times the derivative at ``x``, torch's own kernels: at NaN relu passes grad, leaky_relu slope * grad."""
    if activation == Activation.RELU:
        return torch.ops.aten.threshold_backward(grad, x, 0)
    if activation == Activation.LEAKY_RELU:
        return torch.ops.aten.leaky_relu_backward(grad, x, negative_slope, False)
    return grad


def backward_by_output(grad: torch.Tensor, y: torch.Tensor, activation: int, negative_slope: float) -> torch.Tensor:
    """``grad`` times the derivative where the activation gave ``y``, torch's own kernels; the slope of leaky_relu is
    >= 0."""
    if activation == Activation.RELU:
        return torch.ops.aten.threshold_backward(grad, y, 0)
    if activation == Activation.LEAKY_RELU:
        return torch.ops.aten.leaky_relu_backward(grad, y, negative_slope, True)
    if activation == Activation.TANH:
        return torch.ops.aten.tanh_backward(grad, y)
    return grad
