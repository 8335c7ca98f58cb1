"""Backward of a chain's links.

Saved are the input, the output and vectors by channel: neither the activations nor the gradient of the output before
its batch norm is ever stored. Gradient order: first order by the fused kernels; under ``create_graph`` the derivatives
are built from torch's ops and the convolutions' own Functions, so every higher order follows (eager only; no forward
mode).
"""

from __future__ import annotations

from typing import Any

import torch

from fastgan.dispatch import call
from fastgan.ops.common import forward_mode
from fastgan.ops.conv_transpose2d import autograd as convolutions
from fastgan.ops.conv_transpose2d.chain import norm_of, reference
from fastgan.ops.conv_transpose2d.geometry import Geometry, Pair

Result = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Vector = torch.Tensor | None


def link(
    name: str,
    input: torch.Tensor,
    norm: tuple[Vector, Vector, Vector, Vector],
    beside: torch.Tensor | None,
    weight: torch.Tensor,
    bias: Vector,
    running: tuple[Vector, Vector],
    output_size: Pair,
    geometry: Geometry,
    momentum: float,
    eps: float,
    activation: int,
    negative_slope: float,
) -> Result:
    """``name`` ("conv_transpose2d" or "conv2d") of the input after the norm (mean, rstd, gamma, beta; None without
    one) and of the channels beside it, and the mean and rstd of its output by channel."""
    end = (momentum, eps, activation, negative_slope)
    taken = (input, *norm, beside, weight, bias)
    if forward_mode.bare(*taken):
        output, mean, rstd = call(f"{name}_stats", *taken, *running, output_size, *geometry, *end)
        return output, mean, rstd
    numbers = convolutions.flat(output_size, geometry)
    result: Result = Link.apply(name, *taken, *running, *numbers, *end)
    return result


class Link(torch.autograd.Function):
    """(op, input, mean, rstd, gamma, beta, beside, weight, bias, running_mean, running_var, nine numbers, momentum,
    eps, activation, negative_slope) -> (output, mean, rstd)."""

    @staticmethod
    def forward(
        ctx: Any,
        name: str,
        input: torch.Tensor,
        mean: Vector,
        rstd: Vector,
        gamma: Vector,
        beta: Vector,
        beside: torch.Tensor | None,
        weight: torch.Tensor,
        bias: Vector,
        running_mean: Vector,
        running_var: Vector,
        size_h: int,
        size_w: int,
        stride_h: int,
        stride_w: int,
        padding_h: int,
        padding_w: int,
        dilation_h: int,
        dilation_w: int,
        groups: int,
        momentum: float,
        eps: float,
        activation: int,
        negative_slope: float,
    ) -> Result:
        geometry = Geometry((stride_h, stride_w), (padding_h, padding_w), (dilation_h, dilation_w), groups)
        norm = (mean, rstd, gamma, beta)
        result: Result = call(
            f"{name}_stats", input, *norm, beside, weight, bias, running_mean, running_var, (size_h, size_w),
            *geometry, momentum, eps, activation, negative_slope,
        )  # fmt: skip
        ctx.name, ctx.geometry, ctx.end = name, geometry, (activation, negative_slope)
        ctx.save_for_backward(*result, input, *norm, beside, weight)
        return result

    @staticmethod
    def backward(
        ctx: Any, grad_output: torch.Tensor, grad_mean: torch.Tensor, grad_rstd: torch.Tensor
    ) -> tuple[Any, ...]:
        output, output_mean, output_rstd, *taken = ctx.saved_tensors
        result, (input, *norm, beside, weight) = reference.Output(output, output_mean, output_rstd), taken
        _, *needed = ctx.needs_input_grad[:9]
        wanted = any(needed[:5]), *needed[5:7]
        gradients = grad_output, grad_mean, grad_rstd
        if torch.is_grad_enabled():
            found = _differentiable(ctx, gradients, result, input, norm, beside, weight, wanted)
        else:
            found = call(f"{ctx.name}_stats_backward", *gradients, *result, *taken, *wanted, *ctx.geometry, *ctx.end)
        grad_input, grad_beside, grad_weight, *vectors = found
        # the part along the output's deviations sums to nothing
        bias = grad_output.sum((0, 2, 3), dtype=grad_mean.dtype) + grad_mean if needed[7] else None
        found = (grad_input, *vectors, grad_beside, grad_weight, bias)
        operands = (input, *norm, beside, weight, weight)
        given = (
            None if not need or gradient is None else gradient.to(operand.dtype)
            for gradient, operand, need in zip(found, operands, needed, strict=True)
        )
        return None, *given, *(None,) * 15


def _differentiable(
    ctx: Any,
    gradients: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    result: reference.Output,
    input: torch.Tensor,
    norm: list[Vector],
    beside: torch.Tensor | None,
    weight: torch.Tensor,
    wanted: tuple[bool, ...],
) -> reference.Gradients:
    """The gradients in differentiable ops."""
    transposed = ctx.name == "conv_transpose2d"
    back = convolutions.conv2d if transposed else convolutions.conv_transpose2d
    kernel, size = tuple(weight.shape[2:]), tuple(input.shape[2:])
    of_taken = wanted[0] or wanted[1]

    def of_input(before: torch.Tensor) -> torch.Tensor:
        return back(before, weight, None, size, ctx.geometry)

    def of_weight(before: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
        pair = (taken, before) if transposed else (before, taken)
        return convolutions.conv2d_weight(*pair, kernel, ctx.geometry)

    return reference.gradients(
        of_input if of_taken else None,
        of_weight if wanted[2] else None,
        reference.gradient_before(*gradients, result),
        input,
        norm_of(tuple(norm), *ctx.end),
        beside,
    )
