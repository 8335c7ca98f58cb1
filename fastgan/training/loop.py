"""The training loop."""

import math
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fastgan.data import DataError, Images

from .config import TrainConfig
from .draws import Draws
from .networks import build_networks, classes_of
from .progress import Display
from .recorder import Recorder
from .signals import StopSignals
from .state import restore_state
from .step import Players, train_step

BETAS = (0.5, 0.999)  # DCGAN paper, section 4


@dataclass(frozen=True)
class Ended:
    """How a training ended: at which step, by which signal if by one, and how much its last samples differ.

    ``spread`` is that of the fixed-noise samples as a share of that of real images.
    """

    step: int
    signal: signal.Signals | None
    spread: float


def build_players(config: TrainConfig, classes: int | None) -> Players:
    """Fresh networks, seeded, in training mode on their device, and their Adam optimizers.

    ``classes``: how many the data has; None if it is not labelled. Seeds torch's global generator.
    """
    torch.manual_seed(config.seed)
    generator, discriminator = build_networks(config, classes)
    for network in (generator, discriminator):
        network.to(config.device)
        if config.channels_last:
            network.to(memory_format=torch.channels_last)
    return Players(
        generator,
        discriminator,
        g_optimizer=torch.optim.Adam(generator.parameters(), lr=config.lr, betas=BETAS, fused=True),
        d_optimizer=torch.optim.Adam(discriminator.parameters(), lr=config.lr, betas=BETAS, fused=True),
    )


def last_step_of(config: TrainConfig, images: int) -> float:
    """The step at which ``config`` ends on so many images, if its minutes do not end it before. May be infinite."""
    batches = images // config.batch_size
    by_epochs = math.inf if config.epochs is None else max(1, config.epochs * batches // config.d_steps)
    return min(by_epochs, math.inf if config.steps is None else config.steps)


def train(config: TrainConfig, data: Images, run: Path, state: dict[str, Any] | None = None) -> Ended:
    """Train into the folder ``run``: checkpoint.pt, metrics.csv, curves.png, samples/step-*.png, tensorboard/.

    ``state``: what ``load_state`` returned, to go on from there. On a CPU the same configuration gives the same bits,
    in one go or resumed any number of times, unless ``minutes`` ends it.

    Ctrl-C and SIGTERM end it after the step they come in; the checkpoint is then that of this step.
    Raises DataError if the data does not make one batch, CheckpointError if ``state`` does not fit, NonFiniteError if a
    loss, gradient or weight is no longer a finite number (the checkpoint is then the last healthy one), OSError if a
    file cannot be written.
    """
    if len(data) < config.batch_size:
        raise DataError(f"batch size {config.batch_size} is larger than the {len(data)} images of {data.name}")
    last_step, last_second = last_step_of(config, len(data)), (config.minutes or math.inf) * 60
    players = build_players(config, data.classes)
    draws = Draws(config, data, players.generator.z_dim, classes_of(players.generator) is not None)
    step, seconds = 0, 0.0
    if state is not None:
        restore_state(state, config, players, draws)
        step, seconds = state["step"], state["seconds"]

    with StopSignals() as stop, Display(config, last_step, step, seconds) as display:
        recorder = Recorder(config, players, draws, run, display, state)
        try:
            done, stopped = step >= last_step, None
            while not done and stopped is None:
                step += 1
                recorder.window.add(train_step(players, draws, config))
                if step % config.log_every == 0:
                    recorder.log(step)
                if step % config.save_every == 0:
                    recorder.save(step)
                display.step(step)
                done, stopped = step >= last_step or recorder.elapsed() >= last_second, stop.received
            if recorder.saved_step < step:
                recorder.save(step)
            if done:  # a last line for what is left; in the checkpoint it is still open, if the run is made longer
                recorder.log(step, wait=True)
        finally:
            recorder.close()
    return Ended(step, None if done else stopped, recorder.spread)
