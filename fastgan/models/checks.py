"""What a model refuses, at construction and when called. Every message names the argument and what it should be.

torch.fx records a call of what looks at tensors; it finds it where it is called as ``checks.<name>``.
"""

import torch
from torch import Tensor


def check_positive(**sizes: int) -> None:
    """Raise ValueError unless every keyword is an int of at least 1."""
    for name, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive int, got {value!r}")


@torch.fx.wrap
def check_z(z: Tensor, z_dim: int) -> None:
    """Raise ValueError unless ``z`` is [N, z_dim], TypeError unless it is floating point."""
    if z.dim() != 2 or z.shape[1] != z_dim:
        raise ValueError(f"z must have shape [N, {z_dim}], got {list(z.shape)}")
    if not z.is_floating_point():
        raise TypeError(f"z must be a floating-point tensor, got {z.dtype}")


@torch.fx.wrap
def check_images(images: Tensor, channels: int, size: int) -> None:
    """Raise ValueError unless ``images`` is [N, channels, size, size], TypeError unless it is floating point."""
    if images.dim() != 4 or images.shape[1:] != (channels, size, size):
        raise ValueError(f"images must have shape [N, {channels}, {size}, {size}], got {list(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(f"images must be a floating-point tensor in [-1, 1], got {images.dtype}")


@torch.fx.wrap
def check_labels(labels: Tensor, batch: int, classes: int) -> None:
    """Raise unless ``labels`` is int64 [batch] with values in [0, classes).

    The range is checked here on the CPU only. On a GPU reading the values would stop the host once per call; there the
    embedding's own device assertion catches a label out of range.
    """
    if labels.dtype != torch.int64:
        raise TypeError(f"labels must be int64 class numbers, got {labels.dtype}")
    if labels.shape != (batch,):
        raise ValueError(f"labels must have shape [{batch}], one per image, got {list(labels.shape)}")
    # Reading values would also break a compiled graph, and there is nothing to read in an empty batch.
    if labels.device.type == "cpu" and batch and not torch.compiler.is_compiling():
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= classes:
            raise ValueError(f"labels must be in [0, {classes}), got values from {low} to {high}")
