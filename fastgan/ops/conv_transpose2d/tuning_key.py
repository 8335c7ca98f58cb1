"""What the time of a convolution depends on: the keys of :mod:`fastgan.tuning`'s table.

Everything is in a key as it is, except the values, the slope of an activation and the batch, of which there is only
the power of two that it reaches: 65 to 128 images are one class. A training has one batch size, mostly a power of two
and so the largest of its class, and one smaller batch at the end of an epoch; which backend is the fastest changes with
the ratio of work to launches, so little within a factor of two. Channels and image sizes change it by a single step (8
channels or 9, 4x4 or 5x5 pixels) and are few in a network. Layouts are strides as they are: sliced, transposed and
expanded images, such as the gradient of a sum, are classes of their own.
"""

from __future__ import annotations

from typing import Any

import torch

from fastgan.ops.conv_transpose2d.geometry import Pair

Key = tuple[Any, ...]


def batch_class(batch: int) -> int:
    """0 for one image, 1 for two, 2 for three and four, and so on; -1 for none."""
    return (batch - 1).bit_length() if batch else -1


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
