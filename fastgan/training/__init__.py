"""Training: the losses, one step, the loop, and the files it writes.

The loop is imported from its own module, ``fastgan.training.loop``, because it needs pillow.
"""

from .checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from .config import TrainConfig
from .health import NonFiniteError
from .losses import GENERATOR_LOSSES, discriminator_loss, generator_loss
from .networks import NETWORKS, Generator, classes_of, generate, load_generator
from .run_folder import RunError, open_run
from .step import METRICS, Players, train_step

__all__ = [
    "GENERATOR_LOSSES",
    "METRICS",
    "NETWORKS",
    "CheckpointError",
    "Generator",
    "NonFiniteError",
    "Players",
    "RunError",
    "TrainConfig",
    "classes_of",
    "discriminator_loss",
    "generate",
    "generator_loss",
    "load_checkpoint",
    "load_generator",
    "open_run",
    "save_checkpoint",
    "train_step",
]
