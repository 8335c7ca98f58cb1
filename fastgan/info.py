"""``fastgan info``: versions, devices, what is compiled, and for every op which backend runs and why not the others."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Callable
from typing import Any

import torch

import fastgan  # noqa: F401  registers every op
from fastgan import dispatch, tuning
from fastgan.native import build_info
from fastgan.tuning.machine import cpu_name, installed
from fastgan.version import __version__

__all__ = ["report", "run"]


def _conv(op: str) -> Callable[[torch.device], tuple[Any, ...]]:
    def arguments(device: torch.device) -> tuple[Any, ...]:
        small, big = torch.zeros(1, 2, 2, 2, device=device), torch.zeros(1, 2, 4, 4, device=device)
        weight, geometry = torch.zeros(2, 2, 4, 4, device=device), ((2, 2), (1, 1), (1, 1), 1)
        if op == "conv2d_weight":
            return (small, big, (4, 4), *geometry)
        if op == "conv2d_act_backward":
            return (small, small, big, weight, True, (4, 4), (4, 4), *geometry, 1, 0.0)
        first, size = (small, (4, 4)) if op.startswith("conv_transpose2d") else (big, (2, 2))
        activation = (1, 0.0) if op.endswith("_act") else ()
        return (first, weight, None, size, *geometry, *activation)

    return arguments


def _norm(op: str) -> Callable[[torch.device], tuple[Any, ...]]:
    def arguments(device: torch.device) -> tuple[Any, ...]:
        image, vector = torch.zeros(2, 2, 2, 2, device=device), torch.ones(2, device=device)
        if op == "batch_norm_act_train":
            return (image, vector, vector, vector.clone(), vector.clone(), 0.1, 1e-5, 1, 0.01)
        if op == "batch_norm_act_eval":
            return (image, vector, vector, vector, vector, 1, 0.01)
        if op == "batch_norm_act_backward":
            return (image, image, vector, vector, vector, vector, True, 1, 0.01)
        if op == "batch_norm_act_stats":
            return (image,)
        if op == "batch_norm_stats":
            return (image, vector.clone(), vector.clone(), 0.1, 1e-5)
        statistics = (vector, vector) if op == "batch_norm_act_backward_reduce" else (vector,) * 4
        return (image, image, vector, vector, *statistics, 1, 0.01)

    return arguments


def _link(op: str) -> Callable[[torch.device], tuple[Any, ...]]:
    def arguments(device: torch.device) -> tuple[Any, ...]:
        small, big = torch.zeros(2, 2, 2, 2, device=device), torch.zeros(2, 2, 4, 4, device=device)
        vector, weight = torch.ones(2, device=device), torch.zeros(2, 2, 4, 4, device=device)
        geometry, end = ((2, 2), (1, 1), (1, 1), 1), (1, 0.0)
        input, output = (small, big) if op.startswith("conv_transpose2d") else (big, small)
        if op.endswith("_backward"):
            return (
                output,
                *(vector,) * 2,
                output,
                *(vector,) * 2,
                input,
                *(vector,) * 4,
                None,
                weight,
                True,
                True,
                True,
                *geometry,
                *end,
            )
        size, running = tuple(output.shape[2:]), (vector.clone(), vector.clone())
        return (input, *(vector,) * 4, None, weight, None, *running, size, *geometry, 0.1, 1e-5, *end)

    return arguments


# Typical float32 arguments of every op: what a backend supports may depend on them.
SAMPLES: dict[str, Callable[[torch.device], tuple[Any, ...]]] = {
    **{
        op: _conv(op)
        for op in (
            "conv_transpose2d",
            "conv2d",
            "conv2d_weight",
            "conv_transpose2d_act",
            "conv2d_act",
            "conv2d_act_backward",
        )
    },
    **{
        op: _norm(op)
        for op in (
            "batch_norm_act_train",
            "batch_norm_act_eval",
            "batch_norm_act_backward",
            "batch_norm_act_stats",
            "batch_norm_act_backward_reduce",
            "batch_norm_act_backward_apply",
            "batch_norm_stats",
        )
    },
    **{
        op: _link(op)
        for op in ("conv_transpose2d_stats", "conv_transpose2d_stats_backward", "conv2d_stats", "conv2d_stats_backward")
    },
    "bce_with_logits": lambda device: (torch.zeros(8, device=device), None, 1.0, None, None, 1, True),
    **dict.fromkeys(
        ("bce_with_logits_backward", "bce_with_logits_backward_"),
        lambda device: (torch.zeros(8, device=device), torch.ones((), device=device), 0),
    ),
    "discriminator_loss": lambda device: (torch.zeros(8, device=device), torch.zeros(8, device=device), 1.0, True),
    **dict.fromkeys(
        ("discriminator_loss_backward", "discriminator_loss_backward_"),
        lambda device: (*(torch.zeros(8, device=device) for _ in range(2)), torch.ones((), device=device)),
    ),
}


def _devices() -> list[torch.device]:
    return [torch.device("cpu"), *(torch.device("cuda", index) for index in range(torch.cuda.device_count()))]


def _device(device: torch.device) -> dict[str, Any]:
    if device.type == "cpu":
        return {"name": cpu_name(), "threads": torch.get_num_threads()}
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory": f"{properties.total_memory / 2**30:.0f} GiB",
    }


def _op(op: str, device: torch.device) -> dict[str, Any]:
    """Which backends can run the op on typical arguments, which one runs, and why that one."""
    arguments = SAMPLES[op](device)
    reasons = dispatch.why_not(op, *arguments)
    backends = {name: reason or "usable" for name, reason in reasons.items()}
    try:
        runs = dispatch.select(op, *arguments).name
    except dispatch.BackendError as error:
        return {"backends": backends, "runs": None, "why": str(error)}
    if dispatch._forced is not None:
        why = "forced by FASTGAN_BACKEND or use_backend"
    elif dispatch.measured(op, *arguments) is not None:
        why = "the fastest when it was measured here"
    elif runs != "reference":
        why = f"measured to be at least as fast as the reference on {device.type}"
    elif [name for name, reason in reasons.items() if reason is None] == ["reference"]:
        why = "nothing else can run here"
    else:
        why = f"nothing else that can run is measured to be faster on {device.type}"
    return {"backends": backends, "runs": runs, "why": why}


def report() -> dict[str, Any]:
    """Everything that ``fastgan info`` says, as plain data.

    Returns:
        ``versions``, ``build`` (:func:`fastgan.native.build_info`), and per device of ``devices`` its properties,
        ``tuning`` (:func:`fastgan.tuning.describe`) and ``ops``: for each op the ``backends`` ("usable" or the reason
        why not), the one that ``runs``, and ``why``.
    """
    versions = {"fastgan": __version__, "torch": torch.__version__, "python": platform.python_version()}
    versions.update({"triton": installed("triton"), "numpy": installed("numpy")})
    versions["cuda of torch"] = torch.version.cuda or "none"
    devices = {
        str(d): {**_device(d), "tuning": tuning.describe(d), "ops": {op: _op(op, d) for op in dispatch.op_names()}}
        for d in _devices()
    }
    return {"versions": versions, "build": build_info(), "devices": devices}


def _tuning(state: dict[str, Any]) -> str:
    """A line about a device's table of measured times."""
    if state["wrong"] is not None:
        return f"{state['file']} is not used: {state['wrong']}"
    use = "in use" if state["in_use"] else "used by fastgan.load_tuning and fastgan.autotune"
    return f"{state['file']}, {state['entries']} measured calls, {state['apply']} with these settings; {use}"


def _print(content: dict[str, Any]) -> None:
    for name, version in content["versions"].items():
        print(f"{name}: {version}")
    for name, state in content["build"].items():
        print(f"{name}: {state}")
    for name, device in content["devices"].items():
        properties = ", ".join(f"{key} {value}" for key, value in device.items() if key not in ("tuning", "ops"))
        print(f"\n{name}: {properties}")
        print(f"  tuning: {_tuning(device['tuning'])}")
        for op, state in device["ops"].items():
            print(f"  {op}: {state['runs'] or 'cannot run'} ({state['why']})")
            for backend, usable in state["backends"].items():
                if backend != state["runs"]:
                    print(f"    {backend}: {usable}")


def run(as_json: bool) -> None:
    """Print the report, for people or for machines."""
    content = report()
    if as_json:
        json.dump(content, sys.stdout, indent=1)
        print()
    else:
        _print(content)
