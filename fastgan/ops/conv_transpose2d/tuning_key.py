"""What the time of a convolution depends on: keys as :mod:`fastgan.ops.common.tuning_key` has them. Written out, as
they are made in every call."""

from __future__ import annotations

import torch

from fastgan.ops.common.tuning_key import Key, batch_class
from fastgan.ops.conv_transpose2d.geometry import Pair


def image_map(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    output_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    activation: int = 0,
    _negative_slope: float = 0.0,
) -> Key:
    """Of conv_transpose2d and conv2d, with an activation or without."""
    shape = input.shape
    return (
        input.dtype, batch_class(shape[0]), shape[1:], input.stride(),
        weight.dtype, weight.shape, weight.stride(), bias is not None,
        tuple(output_size), tuple(stride), tuple(padding), tuple(dilation), groups, activation,
    )  # fmt: skip


def weight_map(
    small: torch.Tensor, big: torch.Tensor, kernel_size: Pair, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Key:
    """Of conv2d_weight."""
    shape = small.shape
    return (
        small.dtype, batch_class(shape[0]), shape[1:], small.stride(), big.dtype, big.shape[1:], big.stride(),
        tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation), groups,
    )  # fmt: skip


def gradients(
    grad_output: torch.Tensor,
    output: torch.Tensor,
    input: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: bool,
    input_size: Pair,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    activation: int,
    _negative_slope: float,
) -> Key:
    """Of conv2d_act_backward, all of whose gradients are one op's."""
    shape = grad_output.shape
    return (
        grad_output.dtype, batch_class(shape[0]), shape[1:], grad_output.stride(), output.stride(),
        None if input is None else (input.shape[1:], input.stride()),
        None if weight is None else (weight.shape, weight.stride()), bool(bias),
        tuple(input_size), tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation), groups, activation,
    )  # fmt: skip
