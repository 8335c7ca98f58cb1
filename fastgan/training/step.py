"""One turn of the game: D learns from a batch, then G does. Nothing here waits for the device."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .losses import GeneratorLoss, discriminator_loss, generator_loss
from .networks import Discriminator, Generator

METRICS = ("d_loss", "g_loss", "d_real", "d_fake")


@dataclass(frozen=True)
class Players:
    """The two networks and the optimizer of each."""

    generator: Generator
    discriminator: Discriminator
    g_optimizer: Optimizer
    d_optimizer: Optimizer


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within, no gradient is computed for the parameters of ``module``; gradients still flow through it."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def discriminator_step(
    players: Players, real: Tensor, fake: Tensor, condition: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Move D one step. Returns its loss, the mean of D(x) and the mean of D(G(z)), all before the step.

    ``real``, ``fake``: [N, C, H, W] in [-1, 1]. They pass D separately, so that each has its own batch statistics.
    """
    real_logits = players.discriminator(real, *condition)
    fake_logits = players.discriminator(fake.detach(), *condition)
    loss = discriminator_loss(real_logits, fake_logits)
    players.d_optimizer.zero_grad()
    loss.backward()
    players.d_optimizer.step()
    return loss.detach(), real_logits.detach().sigmoid().mean(), fake_logits.detach().sigmoid().mean()


def generator_step(players: Players, fake: Tensor, condition: tuple[Tensor, ...], form: GeneratorLoss) -> Tensor:
    """Move G one step, against the D of now. Returns G's loss before the step.

    ``fake``: [N, C, H, W] as G made it, its graph attached.
    """
    with frozen(players.discriminator):
        loss = generator_loss(players.discriminator(fake, *condition), form)
        players.g_optimizer.zero_grad()
        loss.backward()
    players.g_optimizer.step()
    return loss.detach()


def train_step(players: Players, real: Tensor, z: Tensor, labels: Tensor | None, form: GeneratorLoss) -> Tensor:
    """One D step and one G step on the same fakes.

    ``real`` [N, C, H, W] in [-1, 1]; ``z`` [N, z_dim]; ``labels`` int64 [N], the classes of ``real`` and the classes
    asked of G, or None for networks that take none. Returns METRICS as one tensor [4] on the device.
    """
    condition = () if labels is None else (labels,)
    fake = players.generator(z, *condition)
    d_loss, d_real, d_fake = discriminator_step(players, real, fake, condition)
    g_loss = generator_step(players, fake, condition, form)
    return torch.stack([d_loss, g_loss, d_real, d_fake])
