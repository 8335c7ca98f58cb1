"""Few logits, on which the Python around our op takes longer than the work: torch's loss runs in its place."""

from __future__ import annotations

import math
from typing import Any

import torch

from fastgan import dispatch
from fastgan.ops.bce_with_logits.reference import MEAN

#: Logits below which torch's loss is the faster one, forward and backward (measured: README.md beside this file).
SMALL = 1 << 15


def by_torch(input: Any, target: Any, weight: Any, pos_weight: Any, reduction: int) -> torch.Tensor | None:
    """The loss by torch, or None. Asked before the arguments are checked: takes those alone that need no check."""
    if weight is not None or pos_weight is not None or not dispatch.may_leave_to_torch(input, target):
        return None
    if not isinstance(input, torch.Tensor) or input.dtype is not torch.float32 or not input.is_cpu:
        return None
    if not 0 < input.numel() < SMALL:
        return None
    if type(target) is float and math.isfinite(target) and abs(target) <= torch.finfo(torch.float32).max:
        target = torch.full_like(input, target)
    elif not isinstance(target, torch.Tensor) or target.dtype is not torch.float32 or not target.is_cpu:
        return None
    if target.shape != input.shape:
        return None
    return torch.binary_cross_entropy_with_logits(input, target, None, None, reduction)


def discriminator_by_torch(real: Any, fake: Any, label_smoothing: Any) -> torch.Tensor | None:
    """As :func:`by_torch`, the sum of the discriminator's two losses."""
    if type(label_smoothing) is not float or not 0.0 <= label_smoothing <= 1.0:
        return None
    first = by_torch(real, 1.0 - label_smoothing, None, None, MEAN)
    second = None if first is None else by_torch(fake, 0.0, None, None, MEAN)
    return None if first is None or second is None else first + second
