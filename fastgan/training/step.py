"""One turn of the game: D learns from a batch, then G does. Nothing here waits for the device."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .config import TrainConfig
from .losses import discriminator_loss, generator_loss
from .networks import Discriminator, Generator

# What a step starts from: real images [N, C, H, W] in [-1, 1], noise [N, z_dim], and (labels int64 [N],) or ().
Batch = tuple[Tensor, Tensor, tuple[Tensor, ...]]


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


def gradient_norms(module: nn.Module) -> list[Tensor]:
    """The 2-norm of each parameter's gradient as a scalar, in the order in which backward makes them: last one first.

    The norm of all gradients together is the norm of these.
    """
    return list(torch._foreach_norm([p.grad for p in reversed(list(module.parameters())) if p.grad is not None]))


def discriminator_step(
    players: Players, real: Tensor, fake: Tensor, condition: tuple[Tensor, ...], config: TrainConfig
) -> list[Tensor]:
    """Move D one step. Returns, all from before the step: the mean of D(x), that of D(G(z)), D's loss, gradient norms.

    ``real``, ``fake``: [N, C, H, W] in [-1, 1]. They pass D separately, so that each has its own batch statistics.
    """
    with torch.autocast(real.device.type, torch.bfloat16, enabled=config.amp):
        real_logits = players.discriminator(real, *condition)
        fake_logits = players.discriminator(fake.detach(), *condition)
        loss = discriminator_loss(real_logits, fake_logits, config.label_smoothing)
    players.d_optimizer.zero_grad()
    loss.backward()
    norms = gradient_norms(players.discriminator)
    players.d_optimizer.step()
    probabilities = [logits.detach().float().sigmoid().mean() for logits in (real_logits, fake_logits)]
    return [*probabilities, loss.detach(), *norms]


def generator_step(players: Players, fake: Tensor, condition: tuple[Tensor, ...], config: TrainConfig) -> list[Tensor]:
    """Move G one step, against the D of now. Returns G's loss before the step, and its gradient norms.

    ``fake``: [N, C, H, W] as G made it, its graph attached.
    """
    with frozen(players.discriminator):
        with torch.autocast(fake.device.type, torch.bfloat16, enabled=config.amp):
            loss = generator_loss(players.discriminator(fake, *condition), config.loss)
        players.g_optimizer.zero_grad()
        loss.backward()
    norms = gradient_norms(players.generator)
    players.g_optimizer.step()
    return [loss.detach(), *norms]


def train_step(players: Players, draw: Callable[[], Batch], config: TrainConfig) -> Tensor:
    """``config.d_steps`` steps of D, each on a fresh batch, then one step of G on the fakes of the last.

    Returns the step's trace, float32 [T] on the device: numbers in the order in which they were computed, whose names
    are those of ``TraceLayout.of(players, config.d_steps)``.
    """
    trace: list[Tensor] = []
    for _ in range(config.d_steps - 1):
        real, z, condition = draw()
        with torch.no_grad(), torch.autocast(z.device.type, torch.bfloat16, enabled=config.amp):
            fake = players.generator(z, *condition)
        trace += discriminator_step(players, real, fake, condition, config)
    real, z, condition = draw()
    with torch.autocast(z.device.type, torch.bfloat16, enabled=config.amp):
        fake = players.generator(z, *condition)
    trace += discriminator_step(players, real, fake, condition, config)
    trace += generator_step(players, fake, condition, config)
    return torch.stack(trace).float()
