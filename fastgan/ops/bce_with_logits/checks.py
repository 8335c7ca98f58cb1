"""Argument checks of the sigmoid-BCE loss, with torch's own words where torch has them."""

from __future__ import annotations

import math
import numbers
import warnings

import torch

from fastgan.ops.bce_with_logits.reference import MEAN, NONE, SUM
from fastgan.ops.common.dtypes import check_floating

_REDUCTIONS = {"none": NONE, "mean": MEAN, "sum": SUM}


def parse_reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> int:
    """The reduction's number; the two deprecated flags override it and warn, as in torch.

    Raises:
        ValueError: unknown reduction.
    """
    if size_average is not None or reduce is not None:
        average, reduces = size_average is not False, reduce is not False
        reduction = "none" if not reduces else "mean" if average else "sum"
        warnings.warn(
            f"size_average and reduce args will be deprecated, please use reduction='{reduction}' instead.",
            stacklevel=3,
        )
    try:
        return _REDUCTIONS[reduction]
    except (KeyError, TypeError):
        raise ValueError(f"{reduction} is not a valid value for reduction") from None


def check(
    input: torch.Tensor, target: torch.Tensor | float, weight: torch.Tensor | None, pos_weight: torch.Tensor | None
) -> None:
    """Raise before anything is launched; see :func:`fastgan.functional.binary_cross_entropy_with_logits`."""
    name = "binary_cross_entropy_with_logits"
    _check_logits(name, "input", 1, input)
    if isinstance(target, torch.Tensor):
        check_floating("target", target)
        if target.size() != input.size():
            raise ValueError(f"Target size ({target.size()}) must be the same as input size ({input.size()})")
    elif not isinstance(target, numbers.Real) or isinstance(target, bool):
        raise TypeError(f"{name}(): argument 'target' must be Tensor or a number, not {type(target).__name__}")
    elif not math.isfinite(target):
        raise ValueError(f"{name}: target must be finite, but got {target!r}")
    elif abs(target) > torch.finfo(input.dtype).max:
        raise RuntimeError(f"value cannot be converted to {input.dtype} without overflow: target is {target!r}")
    for label, tensor in (("target", target), ("weight", weight), ("pos_weight", pos_weight)):
        if tensor is None or (label == "target" and not isinstance(tensor, torch.Tensor)):
            continue
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name}(): argument '{label}' must be Tensor, not {type(tensor).__name__}")
        check_floating(label, tensor)
        _check_device("input", input, label, tensor)
        if label != "target":
            _check_broadcast(name, label, tensor, input)


def check_discriminator(real: torch.Tensor, fake: torch.Tensor, label_smoothing: float) -> None:
    """Raise before anything is launched; see :func:`fastgan.functional.discriminator_loss`."""
    name = "discriminator_loss"
    _check_logits(name, "real_logits", 1, real)
    _check_logits(name, "fake_logits", 2, fake)
    _check_device("real_logits", real, "fake_logits", fake)
    if not isinstance(label_smoothing, numbers.Real) or isinstance(label_smoothing, bool):
        kind = type(label_smoothing).__name__
        raise TypeError(f"{name}(): argument 'label_smoothing' must be a number, not {kind}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")


def _check_logits(function: str, label: str, position: int, logits: torch.Tensor) -> None:
    if not isinstance(logits, torch.Tensor):
        kind = type(logits).__name__
        raise TypeError(f"{function}(): argument '{label}' (position {position}) must be Tensor, not {kind}")
    check_floating(label, logits)


def _check_device(first_label: str, first: torch.Tensor, label: str, tensor: torch.Tensor) -> None:
    if tensor.device != first.device:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {first_label} is on {first.device} and "
            f"{label} on {tensor.device}"
        )


def _check_broadcast(function: str, label: str, tensor: torch.Tensor, input: torch.Tensor) -> None:
    if tensor.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            f"The function '{function}' is not differentiable with respect to argument '{label}'. "
            "This input cannot have requires_grad True."
        )
    try:
        fits = torch.broadcast_shapes(tensor.shape, input.shape) == input.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise RuntimeError(
            f"{label} of size {list(tensor.shape)} does not broadcast to the input's size {list(input.shape)}"
        )
