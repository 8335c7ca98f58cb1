"""The networks that can be trained, by name, and how to get images out of one."""

from pathlib import Path
from typing import Any

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

from .checkpoint import CheckpointError, load_checkpoint
from .run_folder import CHECKPOINT

Generator = GANGenerator | DCGANGenerator | CGANGenerator
Discriminator = GANDiscriminator | DCGANDiscriminator | CGANDiscriminator

NETWORKS: dict[str, tuple[type[Generator], type[Discriminator]]] = {
    "gan": (GANGenerator, GANDiscriminator),
    "dcgan": (DCGANGenerator, DCGANDiscriminator),
    "cgan": (CGANGenerator, CGANDiscriminator),
}


def classes_of(generator: Generator) -> int | None:
    """The number of classes that can be asked of ``generator``, None if it takes no labels."""
    return generator.classes if isinstance(generator, CGANGenerator) else None


def load_generator(run: Path) -> tuple[Generator, dict[str, Any]]:
    """The generator of the run in the folder ``run``, on the CPU in eval mode, and the configuration of that run.

    Raises CheckpointError if there is none, or if it is damaged.
    """
    path = run / CHECKPOINT
    content = load_checkpoint(path, "config", "step", "generator", "discriminator")
    config = content["config"]
    if config.get("model") not in NETWORKS:
        raise CheckpointError(f"{path}: of a model {config.get('model')!r} that this fastgan does not have")
    generator = NETWORKS[config["model"]][0]()
    try:
        generator.load_state_dict(content["generator"])
    except RuntimeError as error:
        raise CheckpointError(f"{path}: its weights are not those of this fastgan's {config['model']}") from error
    return generator.eval(), config


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
