"""The networks that can be trained, by name, and how to get images out of one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fastgan.models import (
    CGANDiscriminator,
    CGANGenerator,
    DCGANDiscriminator,
    DCGANGenerator,
    GANDiscriminator,
    GANGenerator,
)

from .config import TrainConfig

Generator = GANGenerator | DCGANGenerator | CGANGenerator
Discriminator = GANDiscriminator | DCGANDiscriminator | CGANDiscriminator


@dataclass(frozen=True)
class Trained:
    """A generator on the CPU, in eval mode, and where it comes from. ``class_names`` is empty if it takes no class."""

    generator: Generator
    config: TrainConfig
    class_names: tuple[str, ...]
    step: int


def build_networks(config: TrainConfig, classes: int | None) -> tuple[Generator, Discriminator]:
    """Fresh networks of ``config``, on the CPU in training mode, drawn from torch's global random generator.

    ``classes``: how many the data has; None if it is not labelled.

    Raises ValueError for a conditional model and unlabelled data.
    """
    size, channels = config.form
    if config.model == "gan":
        return GANGenerator(image_size=size, channels=channels), GANDiscriminator(size, channels)
    if config.model == "dcgan":
        return DCGANGenerator(image_size=size, channels=channels), DCGANDiscriminator(size, channels)
    if classes is None:
        raise ValueError(f"model {config.model} asks for a class, and data {config.data} is not labelled")
    return CGANGenerator(classes=classes, channels=channels), CGANDiscriminator(classes, channels)


def classes_of(generator: Generator) -> int | None:
    """The number of classes that can be asked of ``generator``, None if it takes no labels."""
    return generator.classes if isinstance(generator, CGANGenerator) else None


@torch.no_grad()
def generate(generator: Generator, z: Tensor, labels: Tensor | None = None) -> Tensor:
    """Images [N, C, H, W] for ``z`` [N, z_dim] and, if it takes them, ``labels`` [N].

    In eval mode, so that an image depends on its own z only; the generator is left in the mode it was in.
    """
    training = generator.training
    generator.eval()
    try:
        return generator(z) if labels is None else generator(z, labels)
    finally:
        generator.train(training)
