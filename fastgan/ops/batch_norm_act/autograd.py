"""Backward of batch norm + activation.

What forward saves beyond tensors that the caller owns anyway (input, weight, bias): two vectors, mean and rstd.
Gradient order: first order by the fused kernel; under ``create_graph`` and in forward mode the derivatives are built
from differentiable torch ops (:mod:`fastgan.ops.batch_norm_act.higher_order`), so every higher order is torch's own.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from fastgan.dispatch import call
from fastgan.ops.batch_norm_act import higher_order
from fastgan.ops.common import forward_mode
from fastgan.ops.common.dtypes import accumulate_type

#: Values per channel below which backward in training computes in float64. The gradient is what is left of grad_output
#: when its mean and its part along the input are taken away: of few values that may be little more than the rounding of
#: float32, and of two values it is always so (eps / (var + eps) of a deviation).
FEW = 16


class BatchNormActTrain(torch.autograd.Function):
    """(input, weight, bias, running_mean, running_var, momentum, eps, activation, negative_slope) ->
    (output, mean, rstd), by batch statistics; mean and rstd are not differentiable."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*args: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return call("batch_norm_act_train", *args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        input, weight, bias, _, _, _, ctx.eps, ctx.activation, ctx.negative_slope = inputs
        _, mean, rstd = output
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(mean, rstd)
        ctx.save_for_backward(input, weight, bias, mean, rstd)
        ctx.save_for_forward(input, weight, bias, mean, rstd)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor | None, *_unused: Any) -> tuple[Any, ...]:
        return (*_backward(ctx, grad_output, training=True), *(None,) * 6)


class BatchNormActTrainWithJvp(BatchNormActTrain):
    """Differentiable in forward mode too."""

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor | None) -> tuple[torch.Tensor | None, None, None]:
        return _tangent(ctx, True, tangents[:3]), None, None


class BatchNormActEval(torch.autograd.Function):
    """(input, weight, bias, mean, rstd, eps, activation, negative_slope) -> output, by given statistics."""

    generate_vmap_rule = True

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
        return call("batch_norm_act_eval", input, weight, bias, mean, rstd, activation, negative_slope)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        input, weight, bias, mean, rstd, ctx.eps, ctx.activation, ctx.negative_slope = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, weight, bias, mean, rstd)
        ctx.save_for_forward(input, weight, bias, mean, rstd)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor | None) -> tuple[Any, ...]:
        return (*_backward(ctx, grad_output, training=False), *(None,) * 5)


class BatchNormActEvalWithJvp(BatchNormActEval):
    """Differentiable in forward mode too."""

    @staticmethod
    def forward(*args: Any) -> torch.Tensor:  # torch binds the arguments to names in every call: the fewer, the faster
        return BatchNormActEval.forward(*args)

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor | None) -> torch.Tensor | None:
        return _tangent(ctx, False, tangents[:3])


for _function in (BatchNormActTrain, BatchNormActTrainWithJvp, BatchNormActEval, BatchNormActEvalWithJvp):
    # torch asks for it in every call, and makes it anew, in some 20 microseconds, where it is not given
    _forward: Any = _function.forward
    _forward.__signature__ = inspect.signature(_forward)


def train(*args: Any) -> torch.Tensor:
    """The output by batch statistics; takes BatchNormActTrain's arguments."""
    if forward_mode.bare(*args[:3]):
        return call("batch_norm_act_train", *args)[0]
    return forward_mode.with_jvp(BatchNormActTrain, BatchNormActTrainWithJvp).apply(*args)[0]


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
    if not torch.compiler.is_compiling() and forward_mode.bare(input, weight, bias):
        return call("batch_norm_act_eval", input, weight, bias, mean, rstd, activation, negative_slope)
    function = forward_mode.with_jvp(BatchNormActEval, BatchNormActEvalWithJvp)
    return function.apply(input, weight, bias, mean, rstd, eps, activation, negative_slope)


def _backward(ctx: Any, grad_output: torch.Tensor | None, training: bool) -> tuple[torch.Tensor | None, ...]:
    input, weight, bias, mean, rstd = ctx.saved_tensors
    needed = ctx.needs_input_grad[:3]
    if grad_output is None or not any(needed):
        return None, None, None
    if forward_mode.differentiable_backward():
        return _differentiable_backward(ctx, grad_output, training)
    operands: tuple[torch.Tensor | None, ...] = grad_output, input, weight, bias, mean, rstd
    # a compiler would make a program of its own for few values, and must not see the question
    if training and not torch.compiler.is_compiling() and 0 < input.numel() < FEW * input.shape[1]:
        operands = _in_float64(grad_output, input, weight, bias, ctx.eps)
    gradients = call("batch_norm_act_backward", *operands, training, ctx.activation, ctx.negative_slope)
    wanted = zip(gradients, (input, weight, bias), needed, strict=True)
    return tuple(gradient.to(operand.dtype) if need else None for gradient, operand, need in wanted)


def _in_float64(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    eps: float,
) -> tuple[torch.Tensor | None, ...]:
    """backward's operands in float64, with the input's own statistics in place of the rounded ones that were saved."""
    wide = input.double()
    var, mean = torch.var_mean(wide, [d for d in range(input.dim()) if d != 1], correction=0)
    weight, bias = (None if vector is None else vector.double() for vector in (weight, bias))
    return grad_output.double(), wide, weight, bias, mean, torch.rsqrt(var + eps)


def _differentiable_backward(ctx: Any, grad_output: torch.Tensor, training: bool) -> tuple[torch.Tensor | None, ...]:
    input, weight, bias, mean, rstd = ctx.saved_tensors
    gradients = higher_order.gradients(
        grad_output,
        input,
        weight,
        bias,
        None if training else (mean, rstd),
        ctx.eps,
        ctx.activation,
        ctx.negative_slope,
    )
    operands = zip(gradients, (input, weight, bias), ctx.needs_input_grad, strict=False)
    return tuple(gradient.to(operand.dtype) if need else None for gradient, operand, need in operands)


def _tangent(ctx: Any, training: bool, tangents: tuple[torch.Tensor | None, ...]) -> torch.Tensor | None:
    forward_mode.refuse_nested("batch_norm_act")
    input, weight, bias, mean, rstd = ctx.saved_tensors
    statistics = None if training else (mean, rstd)
    return higher_order.tangent(input, weight, bias, statistics, ctx.eps, ctx.activation, ctx.negative_slope, tangents)
