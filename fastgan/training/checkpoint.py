"""Checkpoints: written atomically, and believed only if their digest is right.

The file is what torch.save writes, followed by one line, ``fastgan sha256 <64 hex digits>``, the digest of all before
it. (torch.load finds the end of its archive by itself, so ``torch.load(path, weights_only=True)`` reads it too; but it
accepts most flipped bits without a word.)
"""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from fastgan.files import atomic_write

_MARK = b"\nfastgan sha256 "
_TRAILER_BYTES = len(_MARK) + 64 + 1


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of something else. The message is one line and names the file."""


def save_checkpoint(path: Path, content: dict[str, Any], previous: Path | None = None) -> None:
    """Write ``content``, state_dicts and plain values only, to ``path``; an older file there is kept as ``previous``.

    Raises OSError if it cannot be written; an older file of that name is then still whole.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest().encode()
    atomic_write(path, data + _MARK + digest + b"\n", previous)


def load_checkpoint(path: Path, *keys: str) -> dict[str, Any]:
    """Read the checkpoint at ``path``, tensors on the CPU. It must be a dictionary that has ``keys``.

    Raises CheckpointError, naming the file, if it is missing, truncated, damaged, or not such a checkpoint.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file: name a folder that 'fastgan train' wrote") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    body, trailer = data[:-_TRAILER_BYTES], data[-_TRAILER_BYTES:]
    if len(trailer) != _TRAILER_BYTES or not trailer.startswith(_MARK):
        raise CheckpointError(f"{path}: truncated, or not a fastgan checkpoint")
    if trailer != _MARK + hashlib.sha256(body).hexdigest().encode() + b"\n":
        raise CheckpointError(f"{path}: damaged: its contents do not match its SHA-256 digest")
    try:
        content = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        # The digest is right, so this is what was written: objects that weights_only refuses, or no archive at all.
        raise CheckpointError(f"{path}: not a checkpoint of tensors and plain values") from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise CheckpointError(f"{path}: not the checkpoint asked for: it has no {', '.join(missing)}")
    return content
