"""Whether ``torch.onnx.export`` is at work, for which every function is made of torch's own ops."""

from __future__ import annotations

import torch


def for_onnx() -> bool:
    """torch's own question takes microseconds, so it is asked last."""
    return (torch.compiler.is_compiling() or torch.jit.is_tracing()) and torch.onnx.is_in_onnx_export()
