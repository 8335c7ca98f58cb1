"""Small tensors, on which the Python around our op takes longer than the work: torch's two ops run in its place."""

from __future__ import annotations

import torch

from fastgan import dispatch
from fastgan.ops.common import activation as act

#: Elements below which torch's ops are the faster ones, forward and backward (measured: README.md beside this file).
#: torch vectorises over channels where they lie innermost.
SMALL, SMALL_CHANNELS_LAST = 1 << 16, 1 << 18


def left_to_torch(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    training: bool,
) -> bool:
    """Whether torch's batch norm and activation, with their own backward, run in place of ours."""
    if not dispatch.may_leave_to_torch(input, running_mean, running_var, weight, bias):
        return False  # asked first: a compiler must not see the sizes below
    if not input.is_cpu or input.dtype is not torch.float32:
        return False
    if not training and torch.is_grad_enabled():
        return False  # torch saves the running statistics themselves, ours a copy: they may change before backward
    if input.is_contiguous():
        return 0 < input.numel() < SMALL
    return 0 < input.numel() < SMALL_CHANNELS_LAST and _channels_last(input)


def _channels_last(input: torch.Tensor) -> bool:
    """torch keeps no other layout than these two, and ours keeps any."""
    return input.dim() == 4 and input.is_contiguous(memory_format=torch.channels_last)


def batch_norm_act(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    activation: int,
    negative_slope: float,
) -> torch.Tensor:
    """torch's batch norm, without the checks of ``F.batch_norm``, which were made, and its activation."""
    output = torch.batch_norm(input, weight, bias, running_mean, running_var, training, momentum, eps, False)
    if activation == act.Activation.LEAKY_RELU and negative_slope < 0:
        return act.apply(output, activation, negative_slope)  # torch cannot undo such a slope in place
    return act.apply_(output, activation, negative_slope)
