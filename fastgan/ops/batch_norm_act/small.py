"""Small tensors without gradients, on which the Python around our op takes longer than the work: torch's two ops run in
its place.

Not where a gradient is wanted: torch's batch norm has none beyond the second order, forbids that its output is edited
in place after a ReLU, and saves the running statistics themselves.
"""

from __future__ import annotations

import torch

from fastgan import dispatch
from fastgan.ops.common import activation as act

#: Elements below which torch's ops are the faster ones (measured: README.md beside this file). torch vectorises over
#: channels where they lie innermost.
SMALL, SMALL_CHANNELS_LAST = 1 << 15, 1 << 18


def left_to_torch(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> bool:
    """Whether torch's batch norm and activation run in place of ours."""
    if not dispatch.may_leave_to_torch(input, running_mean, running_var, weight, bias):
        return False  # asked first: a compiler must not see the sizes below
    if not input.is_cpu or input.dtype is not torch.float32:
        return False
    wanted = any(tensor is not None and tensor.requires_grad for tensor in (input, weight, bias))
    if wanted and torch.is_grad_enabled():
        return False
    most = SMALL_CHANNELS_LAST if input.stride(1) == 1 else SMALL
    return 0 < input.numel() < most


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
    """torch's batch norm, without the checks of ``F.batch_norm``, which were made, and its activation; our strides."""
    output = torch.batch_norm(input, weight, bias, running_mean, running_var, bool(training), momentum, eps, False)
    output = act.apply_(output, activation, negative_slope)
    if output.stride() == input.stride():
        return output
    like = torch.empty_like(input)
    return output if output.stride() == like.stride() else like.copy_(output)
