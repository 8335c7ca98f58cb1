"""How the three maps run under :func:`torch.vmap`: the new dimension becomes part of one that they have.

A batch of images that share a weight is more images; images with a weight each are more groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastgan.ops.common import activation
from fastgan.ops.conv_transpose2d.geometry import Pair


def _front(tensor: torch.Tensor, dim: int | None, size: int) -> torch.Tensor:
    """``tensor`` with the vmapped dimension, of that size, in front."""
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _into_channels(images: torch.Tensor) -> torch.Tensor:
    """[B, N, C, H, W] -> [N, B * C, H, W]."""
    return images.transpose(0, 1).flatten(1, 2)


def image_rule(name: str) -> Callable[..., tuple[torch.Tensor, int]]:
    """The batching rule of the op of that name, "conv2d" or "conv_transpose2d"."""

    def rule(
        info: Any,
        in_dims: tuple[int | None, ...],
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        output_size: Pair,
        *geometry: Any,
    ) -> tuple[torch.Tensor, int]:
        input_dim, weight_dim, bias_dim = in_dims[:3]
        op, size = getattr(torch.ops.fastgan, name), info.batch_size
        if weight_dim is None:
            images = _front(input, input_dim, size)
            joined = op(images.flatten(0, 1), weight, None if bias_dim is not None else bias, output_size, *geometry)
            output, dim = joined.unflatten(0, images.shape[:2]), 0
        else:
            *rest, groups = geometry
            images = _into_channels(_front(input, input_dim, size))
            weights = _front(weight, weight_dim, size).flatten(0, 1)
            joined = op(images, weights, None, output_size, *rest, groups * size)
            output, dim = joined.unflatten(1, (size, joined.shape[1] // size)), 1
        if bias is not None and (weight_dim is not None or bias_dim is not None):
            biases = _front(bias, bias_dim, size)
            output = output + (biases[:, None] if dim == 0 else biases)[..., None, None]
        return output, dim

    return rule


def weight_rule(
    info: Any,
    in_dims: tuple[int | None, ...],
    small: torch.Tensor,
    big: torch.Tensor,
    kernel_size: Pair,
    *geometry: Any,
) -> tuple[torch.Tensor, int]:
    """The batching rule of conv2d_weight."""
    *rest, groups = geometry
    images = [
        _into_channels(_front(image, dim, info.batch_size))
        for image, dim in zip((small, big), in_dims[:2], strict=True)
    ]
    joined = torch.ops.fastgan.conv2d_weight(*images, kernel_size, *rest, groups * info.batch_size)
    return joined.unflatten(0, (info.batch_size, joined.shape[0] // info.batch_size)), 0


def activated_rule(name: str) -> Callable[..., tuple[torch.Tensor, int]]:
    """The batching rule of the op ``<name>_act``: that of ``name``, then the activation."""
    linear = image_rule(name)

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[torch.Tensor, int]:
        *operands, act, negative_slope = args
        output, dim = linear(info, in_dims[:-2], *operands)
        return activation.apply(output, act, negative_slope), dim

    return rule
