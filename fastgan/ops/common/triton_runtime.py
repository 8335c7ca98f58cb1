"""Whether Triton can run here, and why not. Kernels themselves are imported only when a Triton backend runs."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os

import torch


@functools.cache
def interpreting() -> bool:
    """Whether Triton's interpreter runs the kernels (``TRITON_INTERPRET=1`` when the first one was imported)."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@functools.cache
def _missing() -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return None


def reason(*args: object) -> str | None:
    """``None`` if Triton can run on the tensors among these arguments here, otherwise the reason in words: ``supports``
    of every Triton backend."""
    if _missing() is not None:
        return _missing()
    for arg in args:
        if isinstance(arg, torch.Tensor) and arg.device.type != "cuda" and not interpreting():
            return f"Triton needs CUDA tensors, got {arg.device.type} (TRITON_INTERPRET=1 interprets on the CPU)"
    return None


def launch_device(tensor: torch.Tensor) -> contextlib.AbstractContextManager[object]:
    """Makes the tensor's GPU current: Triton launches on the current device, whatever its arguments live on."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else contextlib.nullcontext()


def cdiv(size: int, block: int) -> int:
    """As triton.cdiv, which on the host takes many times as long: it looks for constants of its compiler."""
    return -(-size // block)


def power_of_two(value: int) -> int:
    """The least power of two that is not below ``value``, as triton.next_power_of_2."""
    return 1 << max(value - 1, 0).bit_length()


@functools.cache
def processors(device: torch.device) -> int:
    """Streaming multiprocessors; one where the kernels are interpreted."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1
