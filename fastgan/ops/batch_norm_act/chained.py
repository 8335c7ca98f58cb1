"""The two ends of a chain: the statistics of its input, and the batch norm and activation of its last output, by given
statistics that are differentiable as everything else is. What lies between is conv_transpose2d/chain.

Gradient order: any (second and higher orders through torch's ops; eager only, no forward mode).
"""

from __future__ import annotations

from typing import Any

import torch

from fastgan.dispatch import call
from fastgan.ops.batch_norm_act import higher_order
from fastgan.ops.common import forward_mode
from fastgan.ops.common.statistics import through_statistics

Vector = torch.Tensor | None


def statistics(
    input: torch.Tensor, running_mean: Vector, running_var: Vector, momentum: float, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, rstd) of the batch; running statistics are updated in place."""
    if forward_mode.bare(input):
        mean, rstd = call("batch_norm_stats", input, running_mean, running_var, momentum, eps)
    else:
        mean, rstd = BatchNormStats.apply(input, running_mean, running_var, momentum, eps)
    return mean, rstd


def normalize(
    input: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: Vector,
    bias: Vector,
    activation: int,
    negative_slope: float,
) -> torch.Tensor:
    """The batch norm and the activation of the input, by these statistics."""
    if forward_mode.bare(input, mean, rstd, weight, bias):
        return call("batch_norm_act_eval", input, weight, bias, mean, rstd, activation, negative_slope)
    output: torch.Tensor = NormalizeAct.apply(input, mean, rstd, weight, bias, activation, negative_slope)
    return output


class BatchNormStats(torch.autograd.Function):
    """(input, running_mean, running_var, momentum, eps) -> (mean, rstd)."""

    @staticmethod
    def forward(
        ctx: Any, input: torch.Tensor, running_mean: Vector, running_var: Vector, momentum: float, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mean, rstd = call("batch_norm_stats", input, running_mean, running_var, momentum, eps)
        ctx.save_for_backward(input, mean, rstd)
        return mean, rstd

    @staticmethod
    def backward(ctx: Any, grad_mean: torch.Tensor, grad_rstd: torch.Tensor) -> tuple[Any, ...]:
        input, mean, rstd = ctx.saved_tensors
        gradient = through_statistics(input, mean, rstd, grad_mean, grad_rstd)
        return gradient.to(input.dtype), None, None, None, None


class NormalizeAct(torch.autograd.Function):
    """(input, mean, rstd, weight, bias, activation, negative_slope) -> output."""

    @staticmethod
    def forward(
        ctx: Any,
        input: torch.Tensor,
        mean: torch.Tensor,
        rstd: torch.Tensor,
        weight: Vector,
        bias: Vector,
        activation: int,
        negative_slope: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(input, mean, rstd, weight, bias)
        ctx.end = activation, negative_slope
        return call("batch_norm_act_eval", input, weight, bias, mean, rstd, activation, negative_slope)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[Any, ...]:
        input, mean, rstd, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            found = higher_order.gradients(grad_output, input, weight, bias, (mean, rstd), 0.0, *ctx.end)
        else:
            found = call("batch_norm_act_backward", grad_output, input, weight, bias, mean, rstd, False, *ctx.end)
        grad_input, along, total = found
        scale, factor = (rstd, along) if weight is None else (rstd * weight, along * weight)
        gradients = (grad_input, -scale * total, factor / rstd, along, total)
        operands = zip(gradients, (input, mean, rstd, weight, bias), ctx.needs_input_grad[:5], strict=True)
        return *(g.to(operand.dtype) if need else None for g, operand, need in operands), None, None
