"""The training loop."""

import itertools
import math
import signal
from pathlib import Path

import torch

from fastgan.data import DataError, ImageSet

from .config import TrainConfig
from .networks import NETWORKS, classes_of
from .recorder import Recorder
from .signals import StopSignals
from .step import Players, train_step

BETAS = (0.5, 0.999)  # DCGAN paper, section 4


def build_players(config: TrainConfig) -> Players:
    """Fresh networks, seeded, in training mode on their device, and their Adam optimizers."""
    torch.manual_seed(config.seed)
    make_generator, make_discriminator = NETWORKS[config.model]
    generator, discriminator = make_generator().to(config.device), make_discriminator().to(config.device)
    if config.channels_last:
        generator.to(memory_format=torch.channels_last)
        discriminator.to(memory_format=torch.channels_last)
    return Players(
        generator,
        discriminator,
        g_optimizer=torch.optim.Adam(generator.parameters(), lr=config.lr, betas=BETAS),
        d_optimizer=torch.optim.Adam(discriminator.parameters(), lr=config.lr, betas=BETAS),
    )


def train(config: TrainConfig, data: ImageSet, run: Path) -> signal.Signals | None:
    """Train into the folder ``run``: losses.csv, samples/step-*.png and checkpoint.pt.

    Seeds torch's global generator. On a CPU the same configuration gives the same bits, unless ``minutes`` ends it.

    Returns None, or SIGINT or SIGTERM if one of them ended the training early; the checkpoint is written either way.
    Raises DataError if the data does not make one batch, NonFiniteError if a loss or weight is no longer a finite
    number (the checkpoint is then the last healthy one), OSError if a file cannot be written.
    """
    batches_per_epoch = len(data) // config.batch_size
    if batches_per_epoch == 0:
        raise DataError(f"batch size {config.batch_size} is larger than the {len(data)} images of {data.name}")
    last_step = min(config.steps or math.inf, (config.epochs or math.inf) * batches_per_epoch)
    seconds = (config.minutes or math.inf) * 60

    players = build_players(config)
    conditional = classes_of(players.generator) is not None
    z_dim = players.generator.z_dim
    order = torch.Generator().manual_seed(config.seed)
    noise = torch.Generator(config.device).manual_seed(config.seed)
    recorder = Recorder(config, players, run, noise)

    with StopSignals() as stop:
        for step in itertools.count(1):
            if (step - 1) % batches_per_epoch == 0:
                batches = data.batches(config.batch_size, order)
            real, labels = next(batches)
            if config.channels_last:
                real = real.contiguous(memory_format=torch.channels_last)
            z = torch.randn(config.batch_size, z_dim, generator=noise, device=config.device)
            recorder.add(train_step(players, real, z, labels if conditional else None, config.loss))
            done = step >= last_step or recorder.elapsed() >= seconds or stop.received is not None
            if done or step % config.log_every == 0:
                recorder.log(step, epoch=(step - 1) // batches_per_epoch + 1)
            if done or step % config.sample_every == 0:
                recorder.save(step)
            if done:
                break
    return stop.received
