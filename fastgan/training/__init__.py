"""Training: the losses, one step, the loop, and the files it writes.

The loop is imported from its own module, ``fastgan.training.loop``, because it needs the packages of the train extra.
"""

from .checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from .config import MODELS, ConfigError, TrainConfig
from .export import write_safetensors
from .health import NonFiniteError
from .losses import GENERATOR_LOSSES, discriminator_loss, generator_loss
from .networks import Generator, Trained, build_networks, classes_of, generate
from .run_folder import RunError, environment, open_run, read_run_json, write_run_json
from .state import check_data, load_generator, load_state
from .step import Players, train_step
from .trace import METRICS

__all__ = [
    "GENERATOR_LOSSES",
    "METRICS",
    "MODELS",
    "CheckpointError",
    "ConfigError",
    "Generator",
    "NonFiniteError",
    "Players",
    "RunError",
    "TrainConfig",
    "Trained",
    "build_networks",
    "check_data",
    "classes_of",
    "discriminator_loss",
    "environment",
    "generate",
    "generator_loss",
    "load_checkpoint",
    "load_generator",
    "load_state",
    "open_run",
    "read_run_json",
    "save_checkpoint",
    "train_step",
    "write_run_json",
    "write_safetensors",
]
