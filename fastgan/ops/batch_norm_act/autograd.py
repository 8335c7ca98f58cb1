"""Backward of batch norm + activation.

What forward saves beyond tensors that the caller owns anyway (input, weight, bias): two vectors, mean and rstd.
Gradient order: first order by the fused kernel; under ``create_graph`` backward is built from differentiable torch ops
(:func:`fastgan.ops.batch_norm_act.reference.differentiable`), so every higher order is torch's own.
"""

from __future__ import annotations

from typing import Any

import torch

from fastgan.ops.batch_norm_act import reference
from fastgan.ops.common.dtypes import accumulate_type

_ops = torch.ops.fastgan


class BatchNormActTrain(torch.autograd.Function):
    """(input, weight, bias, running_mean, running_var, momentum, eps, activation, negative_slope) ->
    (output, mean, rstd), by batch statistics; mean and rstd are not differentiable."""

    @staticmethod
    def forward(*args: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return _ops.batch_norm_act_train(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        input, weight, bias, _, _, _, ctx.eps, ctx.activation, ctx.negative_slope = inputs
        _, mean, rstd = output
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(mean, rstd)
        ctx.save_for_backward(input, weight, bias, mean, rstd)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor | None, *_unused: Any) -> tuple[Any, ...]:
        return (*_backward(ctx, grad_output, training=True), *(None,) * 6)


class BatchNormActEval(torch.autograd.Function):
    """(input, weight, bias, mean, rstd, eps, activation, negative_slope) -> output, by given statistics."""

    @staticmethod
    def forward(
        input: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        mean: torch.Tensor,
        rstd: torch.Tensor,
        eps: float,
        activation: int,
        negative_slope: float,
    ) -> torch.Tensor:
        return _ops.batch_norm_act_eval(input, weight, bias, mean, rstd, activation, negative_slope)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        input, weight, bias, mean, rstd, ctx.eps, ctx.activation, ctx.negative_slope = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, weight, bias, mean, rstd)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor | None) -> tuple[Any, ...]:
        return (*_backward(ctx, grad_output, training=False), *(None,) * 5)


def evaluate(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor,
    running_var: torch.Tensor,
    eps: float,
    activation: int,
    negative_slope: float,
) -> torch.Tensor:
    """Eval mode by running statistics. They are turned into (mean, rstd) copies first, so that a training forward
    between this forward and its backward does not change the gradients."""
    dtype = accumulate_type(input.dtype)
    mean = running_mean.detach().to(dtype, copy=True)
    rstd = torch.rsqrt(running_var.detach().to(dtype) + eps)
    return BatchNormActEval.apply(input, weight, bias, mean, rstd, eps, activation, negative_slope)


def _backward(ctx: Any, grad_output: torch.Tensor | None, training: bool) -> tuple[torch.Tensor | None, ...]:
    input, weight, bias, mean, rstd = ctx.saved_tensors
    needed = ctx.needs_input_grad[:3]
    if grad_output is None or not any(needed):
        return None, None, None
    if torch.is_grad_enabled():
        return _differentiable_backward(ctx, grad_output, training)
    gradients = _ops.batch_norm_act_backward(
        grad_output, input, weight, bias, mean, rstd, training, ctx.activation, ctx.negative_slope
    )
    grad_input, grad_weight, grad_bias = (
        gradient if need else None for gradient, need in zip(gradients, needed, strict=True)
    )
    return (
        grad_input,
        None if grad_weight is None else grad_weight.to(weight.dtype),
        None if grad_bias is None else grad_bias.to(bias.dtype),
    )


def _differentiable_backward(ctx: Any, grad_output: torch.Tensor, training: bool) -> tuple[torch.Tensor | None, ...]:
    input, weight, bias, mean, rstd = ctx.saved_tensors
    # Views cut the inner graph off from what lies before: weight may itself be a function of input.
    x = input.view_as(input)
    w, b = (None if tensor is None else tensor.view_as(tensor) for tensor in (weight, bias))
    statistics = None if training else (mean, rstd)
    output = reference.differentiable(x, w, b, statistics, ctx.eps, ctx.activation, ctx.negative_slope)
    wanted = [view for view, need in zip((x, w, b), ctx.needs_input_grad, strict=False) if need and view is not None]
    gradients = iter(torch.autograd.grad(output, wanted, grad_output, create_graph=True))
    return tuple(next(gradients) if need else None for need in ctx.needs_input_grad[:3])
