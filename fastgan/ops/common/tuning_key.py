"""What the time of a call depends on: the keys of :mod:`fastgan.tuning`'s table.

Everything is in a key as it is, except the values, floats and the batch, of which there is only the power of two that
it reaches: 65 to 128 images are one class. A training has one batch size, mostly a power of two and so the largest of
its class, and one smaller batch at the end of an epoch; which backend is the fastest changes with the ratio of work to
launches, so little within a factor of two. Channels and image sizes change it by a single step (8 channels or 9, 4x4 or
5x5 pixels) and are few in a network. Layouts are strides as they are: sliced, transposed and expanded images, such as
the gradient of a sum, are classes of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Key = tuple[Any, ...]


def batch_class(batch: int) -> int:
    """0 for one image, 1 for two, 2 for three and four, and so on; -1 for none."""
    return (batch - 1).bit_length() if batch else -1


def of_tensor(tensor: torch.Tensor | None, batched: bool = True) -> Key | None:
    """Dtype, sizes, of which the first is a batch where ``batched`` says so, and strides."""
    if tensor is None:
        return None
    size = tuple(tensor.shape)
    if batched and size:
        size = (batch_class(size[0]), *size[1:])
    return tensor.dtype, size, tensor.stride()


def of_arguments(*batched: int) -> Callable[..., Key]:
    """A key of all arguments of an op, the first of which is a tensor; ``batched``: where those are whose first size is
    the batch."""

    def key(*args: Any) -> Key:
        return (args[0].dtype, *(_of(arg, position in batched) for position, arg in enumerate(args)))

    return key


def _of(arg: Any, batched: bool) -> Any:
    if isinstance(arg, torch.Tensor):
        return of_tensor(arg, batched)
    if isinstance(arg, float):
        return None
    return tuple(arg) if isinstance(arg, list | tuple) else arg
