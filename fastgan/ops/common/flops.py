"""Floating-point operations of our ops for :class:`torch.utils.flop_counter.FlopCounterMode`."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch


def register_flops(op: str, formula: Callable[..., int]) -> None:
    """``formula(*shapes and other arguments, out_shape=)`` counts ``torch.ops.fastgan.<op>``, as torch's own do."""
    # torch's module warns where there is no triton, of which it needs nothing for our ops.
    log = logging.getLogger("torch.utils.flop_counter")
    log.disabled, before = True, log.disabled
    try:
        from torch.utils.flop_counter import register_flop_formula
    finally:
        log.disabled = before
    register_flop_formula(getattr(torch.ops.fastgan, op))(formula)
