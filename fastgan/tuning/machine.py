"""What measured times are times of: a device with the versions of what runs on it, and the settings of the process."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fastgan.version import __version__


def cpu_name() -> str:
    """The processor's model, or its architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def installed(package: str) -> str:
    """A package's version, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def identity(device: torch.device) -> dict[str, str]:
    """The device's model, and the versions with which times may change."""
    versions = {"fastgan": __version__, "torch": torch.__version__}
    if device.type != "cuda":
        return {"device": cpu_name(), **versions}
    cudnn = str(torch.backends.cudnn.version())
    return {"device": torch.cuda.get_device_name(device), **versions, "triton": installed("triton"), "cudnn": cudnn}


def file_name(identity: dict[str, str]) -> str:
    """A file name of its own for each: the device's model and a digest of everything."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"{re.sub('[^a-z0-9]+', '-', identity['device'].lower()).strip('-')[:60]}-{digest[:12]}.json"


def settings(device_type: str, dtype: torch.dtype) -> tuple[Any, ...]:
    """Of the process, what convolutions take other times with: threads on a CPU; on a GPU how torch chooses among
    cuDNN's algorithms, and TF32 where it is about float32. Asked in each call, so by torch's own fast questions."""
    if device_type != "cuda":
        return (torch.get_num_threads(),)
    deterministic = torch.are_deterministic_algorithms_enabled() or torch._C._get_cudnn_deterministic()
    precision = torch._C._get_fp32_precision_getter("cuda", "conv") if dtype is torch.float32 else None
    return (torch._C._get_cudnn_benchmark(), deterministic, precision)
