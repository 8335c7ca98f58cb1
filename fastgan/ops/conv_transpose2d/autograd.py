"""Backward of the convolutions. The transposed convolution, its adjoint and the weight gradient are bilinear maps, and
each one's gradients are the other two: every order of gradient comes for free, and nothing is special-cased.

Gradient order: any. The Functions save their operands and nothing else.
"""

from __future__ import annotations

from typing import Any

import torch

from fastgan.ops.conv_transpose2d.geometry import Geometry, Pair

_ops = torch.ops.fastgan


def _bias_gradient(grad_output: torch.Tensor, needed: bool) -> torch.Tensor | None:
    return grad_output.sum((0, 2, 3)) if needed else None


class ConvTranspose2d(torch.autograd.Function):
    """(input, weight, bias, output_size, geometry) -> output; differentiable any number of times."""

    @staticmethod
    def forward(
        input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, output_size: Pair, geometry: Geometry
    ) -> torch.Tensor:
        return _ops.conv_transpose2d(input, weight, bias, output_size, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _setup_image(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor | None) -> tuple[Any, ...]:
        if grad_output is None:
            return (None,) * 5
        input, weight = ctx.saved_tensors
        grad_input = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_input = Conv2d.apply(grad_output, weight, None, ctx.input_size, ctx.geometry)
        if ctx.needs_input_grad[1]:
            grad_weight = Conv2dWeight.apply(input, grad_output, ctx.kernel_size, ctx.geometry)
        return grad_input, grad_weight, _bias_gradient(grad_output, ctx.needs_input_grad[2]), None, None


class Conv2d(torch.autograd.Function):
    """(input, weight, bias, output_size, geometry) -> output; differentiable any number of times."""

    @staticmethod
    def forward(
        input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, output_size: Pair, geometry: Geometry
    ) -> torch.Tensor:
        return _ops.conv2d(input, weight, bias, output_size, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _setup_image(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor | None) -> tuple[Any, ...]:
        if grad_output is None:
            return (None,) * 5
        input, weight = ctx.saved_tensors
        grad_input = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_input = ConvTranspose2d.apply(grad_output, weight, None, ctx.input_size, ctx.geometry)
        if ctx.needs_input_grad[1]:
            grad_weight = Conv2dWeight.apply(grad_output, input, ctx.kernel_size, ctx.geometry)
        return grad_input, grad_weight, _bias_gradient(grad_output, ctx.needs_input_grad[2]), None, None


class Conv2dWeight(torch.autograd.Function):
    """(small, big, kernel_size, geometry) -> weight-shaped tensor; differentiable any number of times."""

    @staticmethod
    def forward(small: torch.Tensor, big: torch.Tensor, kernel_size: Pair, geometry: Geometry) -> torch.Tensor:
        return _ops.conv2d_weight(small, big, kernel_size, *geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        small, big, _, ctx.geometry = inputs
        ctx.set_materialize_grads(False)
        ctx.sizes = tuple(small.shape[2:]), tuple(big.shape[2:])
        ctx.save_for_backward(small if ctx.needs_input_grad[1] else None, big if ctx.needs_input_grad[0] else None)

    @staticmethod
    def backward(ctx: Any, grad_weight: torch.Tensor | None) -> tuple[Any, ...]:
        if grad_weight is None:
            return (None,) * 4
        small, big = ctx.saved_tensors
        small_size, big_size = ctx.sizes
        grad_small = grad_big = None
        if ctx.needs_input_grad[0]:
            grad_small = Conv2d.apply(big, grad_weight, None, small_size, ctx.geometry)
        if ctx.needs_input_grad[1]:
            grad_big = ConvTranspose2d.apply(small, grad_weight, None, big_size, ctx.geometry)
        return grad_small, grad_big, None, None


def _setup_image(ctx: Any, inputs: tuple[Any, ...]) -> None:
    input, weight, _, _, ctx.geometry = inputs
    ctx.set_materialize_grads(False)
    ctx.input_size, ctx.kernel_size = tuple(input.shape[2:]), tuple(weight.shape[2:])
    ctx.save_for_backward(input if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)
