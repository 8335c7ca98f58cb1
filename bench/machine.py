"""Where figures come from: machine, versions, commit."""

from __future__ import annotations

import datetime
import os
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fastgan.info import cpu_name
from fastgan.native import build_info
from fastgan.version import __version__

ROOT = Path(__file__).resolve().parent.parent


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def describe(device: torch.device) -> dict[str, Any]:
    """Machine, torch, triton, commit and date of a run. ``commit`` is None outside a repository with commits."""
    facts: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "fastgan": __version__,
        "torch": torch.__version__,
        "triton": _version("triton"),
        "commit": _output("git", "rev-parse", "HEAD"),
        "uncommitted_changes": bool(_output("git", "status", "--porcelain")),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "native_cpu": build_info()["native_cpu"],
    }
    if device.type == "cuda":
        facts |= {
            "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "tf32_convolutions": torch.backends.cudnn.allow_tf32,
            "native_cuda": build_info()["native_cuda"],
        }
    return facts


def file_name(device: torch.device) -> str:
    """The name of this machine's result file, such as ``nvidia-h100-80gb-hbm3.json``."""
    return re.sub(r"[^a-z0-9]+", "-", describe(device)["device"].lower()).strip("-") + ".json"
