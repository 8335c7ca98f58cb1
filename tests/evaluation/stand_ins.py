"""Data a judge learns at once, and generators and judges whose answers are known."""

import torch
from torch import Tensor, nn

from fastgan.data import ImageSet
from fastgan.models import CGANGenerator

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def rows(count: int, classes: int = 10, size: int = 28, channels: int = 1, seed: int = 0) -> ImageSet:
    """A bright row at a height that is the class, in a little noise."""
    noise = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.randint(0, 40, (count, channels, size, size), generator=noise, dtype=torch.uint8)
    height = 2 if size >= 2 * classes else 1
    for index, label in enumerate(labels.tolist()):
        images[index, :, height * label : height * (label + 1)] = 255
    return ImageSet("rows", "memory", images, labels, classes, NAMES[:classes])


class Painter(CGANGenerator):
    """Makes rows of the class asked for, or for some classes those of the next."""

    def __init__(self, wrong_classes: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.wrong_classes = wrong_classes

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        painted = labels.clone()
        for wrong in self.wrong_classes:
            painted[labels == wrong] = (wrong + 1) % 10
        images = torch.full((len(labels), 1, 28, 28), -0.85) + 0.02 * z[:, :1, None, None]
        for index, label in enumerate(painted.tolist()):
            images[index, :, 2 * label : 2 * label + 2] = 1.0
        return images


class Broken(CGANGenerator):
    """Makes NaN."""

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return torch.full((len(labels), 1, 28, 28), torch.nan)


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
