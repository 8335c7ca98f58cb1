"""What a training reads from: images with labels, in random order by epochs or all of them in order."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from .errors import DataError

Batch = tuple[Tensor, Tensor]


def normalise(images: Tensor) -> Tensor:
    """uint8 images, 0 to 255 -> float32 images, -1 to 1."""
    return images.float().div_(127.5).sub_(1.0)


class Images(ABC):
    """Images of one size, each with a label. The two kinds differ only in where the pixels are: memory or files.

    ``name`` is what the user calls it and ``origin`` is where it came from. ``classes`` is None, ``class_names`` is
    empty and every label is 0 if the images are unlabelled.
    """

    name: str
    origin: str
    classes: int | None
    class_names: tuple[str, ...]
    channels: int  # 1 (grey) or 3 (red, green, blue)
    image_size: int  # height and width in pixels

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the content in this form: another one means other images."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def take(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        """The images with the indices ``order``, int64 [M] on the CPU, in that order; the last batch may be smaller.

        Yields images float32 [N, C, H, W] in [-1, 1] and labels int64 [N], both on the device.
        """

    def batches(self, batch_size: int, generator: torch.Generator, skip: int = 0) -> Iterator[Batch]:
        """One epoch in random order: images float32 [batch_size, C, H, W] in [-1, 1], and labels int64 [batch_size].

        ``generator`` is a CPU one, so that a seed gives the same order on every device. The order is drawn from it
        once, by this call and not by the first ``next``: whoever keeps the generator's state from before the call can
        repeat the epoch. The first ``skip`` batches are left out and not read; the others are the same as without it.
        The last, incomplete batch is left out: batch norm would weigh its few images like a whole batch.

        Raises DataError if not even one batch can be made, ValueError for a negative ``skip``.
        """
        if batch_size > len(self):
            raise DataError(f"batch size {batch_size} is larger than the {len(self)} training images of {self.name}")
        if skip < 0:
            raise ValueError(f"skip={skip} must not be negative")
        order = torch.randperm(len(self), generator=generator)
        whole = len(self) // batch_size * batch_size
        return self.take(order[:whole][skip * batch_size :], batch_size)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All images once, in their own order; the last batch may be smaller. Shapes and types as in ``batches``."""
        return self.take(torch.arange(len(self)), batch_size)


@dataclass(frozen=True, eq=False)
class ImageSet(Images):
    """Images in memory. ``images``: uint8 [N, C, H, W]; ``labels``: int64 [N] in [0, classes); on one device.

    ``class_names`` are, unless given, the numbers of the classes.
    """

    name: str
    origin: str
    images: Tensor
    labels: Tensor
    classes: int | None = 10
    class_names: tuple[str, ...] = ()
    channels: int = field(init=False)
    image_size: int = field(init=False)

    def __post_init__(self) -> None:
        # a frozen dataclass may be filled in this way only
        object.__setattr__(self, "channels", self.images.shape[1])
        object.__setattr__(self, "image_size", self.images.shape[2])
        if not self.class_names:
            object.__setattr__(self, "class_names", tuple(str(i) for i in range(self.classes or 0)))

    def __len__(self) -> int:
        return self.images.shape[0]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the shape, the pixels and the labels."""
        sha = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        for tensor in (self.images, self.labels):
            sha.update(tensor.cpu().contiguous().numpy().data)
        return sha.hexdigest()

    def take(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        """See ``Images.take``. Nothing is copied from the CPU but the order, once."""
        cuda = self.images.is_cuda
        order = (order.pin_memory() if cuda else order).to(self.images.device, non_blocking=cuda)  # without waiting
        for start in range(0, len(order), batch_size):
            index = order[start : start + batch_size]
            yield normalise(self.images[index]), self.labels[index]
