"""A generator as one .safetensors file: its weights, and in the metadata what is needed to build it again.

Format: https://huggingface.co/docs/safetensors. No pickle, so a file from elsewhere can be read without running it.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from fastgan.data.folder import PREFIX
from fastgan.files import atomic_write
from fastgan.version import __version__

from .checkpoint import CheckpointError
from .config import TrainConfig
from .networks import Trained

_SIGNED = ("config", "class_names", "step")


def write_safetensors(path: Path, trained: Trained) -> None:
    """Write the generator of ``trained`` to ``path``.

    Raises OSError if it cannot be written; an older file is then still whole.
    """
    from safetensors.torch import save

    weights = {name: tensor.contiguous() for name, tensor in trained.generator.state_dict().items()}
    metadata = {
        "format": "pt",
        "software": f"fastgan {__version__}",
        "config": json.dumps(_without_places(trained.config).to_json()),
        "class_names": json.dumps(list(trained.class_names)),
        "step": str(trained.step),
    }
    metadata["sha256"] = _digest(weights, metadata)
    atomic_write(path, save(weights, metadata))


def read_safetensors(path: Path) -> tuple[dict[str, Any], list[str], int, dict[str, torch.Tensor]]:
    """The settings of the run, its class names, the step and the weights that ``write_safetensors`` wrote.

    Raises CheckpointError, naming the file, if it is missing, damaged or of something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dictionary
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: damaged, or not a safetensors file: {error}") from error
    if not set(_SIGNED) <= set(metadata):
        raise CheckpointError(f"{path}: not a generator that 'fastgan export' wrote")
    if metadata.get("sha256") != _digest(weights, metadata):
        raise CheckpointError(f"{path}: damaged: its contents do not match its SHA-256 digest")
    try:
        class_names = json.loads(metadata["class_names"])
        return json.loads(metadata["config"]), list(class_names), int(metadata["step"]), weights
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: not a generator that 'fastgan export' wrote") from error


def _without_places(config: TrainConfig) -> TrainConfig:
    """The settings without the folders of this machine, which are nobody else's business."""
    data = PREFIX + Path(config.data).name if config.data.startswith(PREFIX) else config.data
    return dataclasses.replace(config, data=data, data_dir=None)


def _digest(weights: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    """SHA-256 over what the metadata say, and the names, shapes and bytes: the format itself has no checksum."""
    digest = hashlib.sha256("\n".join(metadata[name] for name in _SIGNED).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
