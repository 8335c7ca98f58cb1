"""The compiled operators: loaded once, when this module is imported, and never required.

``torch.ops.fastgan_native.<op>`` exists once a compiled module that knows the operator is loaded. Callers ask
:func:`native_reason` first; its answer never changes within a process.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

#: The namespace of the compiled operators: ``torch.ops.fastgan_native``.
NAMESPACE = "fastgan_native"

_DEVICES = ("cpu", "cuda")
# Definitions last as long as this object.
_library = torch.library.Library(NAMESPACE, "FRAGMENT")
_defined: dict[str, str] = {}  # operator: its schema


def _read_build_record() -> dict[str, Any] | None:
    """What setup.py wrote, or None when fastgan runs from a source tree that was never installed."""
    try:
        from fastgan._build_info import BUILD
    except ImportError:
        return None
    return dict(BUILD)


def _define(schemas: str) -> None:
    """Defines the operators that the modules loaded so far have not defined; the modules themselves define nothing."""
    for schema in schemas.splitlines():
        name = schema.partition("(")[0]
        if _defined.setdefault(name, schema) != schema:
            raise RuntimeError(
                f"{name} has another schema in the module loaded before; build both from the same sources"
            )
        if not hasattr(getattr(torch.ops, NAMESPACE), name):
            _library.define(schema)


def _load(device_type: str, record: dict[str, Any] | None) -> str | None:
    """Loads one device's module. Returns None, or the reason why it is not there."""
    if record is None:
        return "fastgan is not installed: its compiled modules were never built"
    not_built: str | None = record["not_built"].get(device_type)
    if not_built is not None:
        return f"the native {device_type} module was not built: {not_built}"
    if device_type == "cuda" and torch.version.cuda is None:
        return "this torch is built without CUDA"
    try:
        module = importlib.import_module(f"fastgan._native_{device_type}")
        _define(module.SCHEMAS)
    except Exception as error:  # whatever the loader says is the reason
        return f"the native {device_type} module failed to load: {error}"
    return None


_record = _read_build_record()
_reasons = {device: _load(device, _record) for device in _DEVICES}


def native_reason(device_type: str) -> str | None:
    """Says why the compiled operators cannot run on a device.

    Args:
        device_type: a ``torch.device``'s ``type``, such as ``"cpu"`` or ``"cuda"``.

    Returns:
        None if the module for that device is loaded, otherwise the reason in one sentence.
    """
    if device_type not in _reasons:
        return f"there are no native kernels for {device_type} tensors"
    return _reasons[device_type]


def build_info() -> dict[str, Any]:
    """Describes the compiled part of this installation.

    Returns:
        ``native_cpu`` and ``native_cuda``: ``"loaded"`` or the reason why not; ``build``: what setup.py recorded (the
        value of FASTGAN_BUILD, the torch compiled against, the CUDA architectures), or None when fastgan was never
        installed.
    """
    info: dict[str, Any] = {f"native_{device}": reason or "loaded" for device, reason in _reasons.items()}
    info["build"] = _record
    return info
