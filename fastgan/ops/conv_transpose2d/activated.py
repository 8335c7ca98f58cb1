"""A convolution and the activation after it in one op, and its backward.

Saved is the output, not what it was made of: it is there anyway, and the derivative follows from it. The gradient
before the activation is made by torch's differentiable ops, and from there on it is that of the linear map. The
output is differentiable where it is saved, so the activation's own second derivative is in it. Where nobody
differentiates again, a backend may have kernels for all of it: :func:`_fused_gradients`.

Gradient order: any, backward and forward.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from fastgan.dispatch import call, has_tables, selects
from fastgan.ops.common import activation as act
from fastgan.ops.common import forward_mode
from fastgan.ops.conv_transpose2d import autograd
from fastgan.ops.conv_transpose2d.geometry import Geometry, Pair

_NUMBERS = 11  # those of a linear map, the activation, its slope


def conv_transpose2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    output_size: Pair,
    geometry: Geometry,
    activation: int,
    negative_slope: float,
) -> torch.Tensor:
    """The transposed convolution and an activation, differentiable any number of times."""
    if forward_mode.bare(input, weight, bias):
        return call("conv_transpose2d_act", input, weight, bias, output_size, *geometry, activation, negative_slope)
    return forward_mode.with_jvp(ConvTranspose2dAct, ConvTranspose2dActWithJvp).apply(
        input, weight, bias, *autograd.flat(output_size, geometry), activation, negative_slope
    )


def conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    output_size: Pair,
    geometry: Geometry,
    activation: int,
    negative_slope: float,
) -> torch.Tensor:
    """The strided convolution and an activation, differentiable any number of times."""
    if forward_mode.bare(input, weight, bias):
        return call("conv2d_act", input, weight, bias, output_size, *geometry, activation, negative_slope)
    return forward_mode.with_jvp(Conv2dAct, Conv2dActWithJvp).apply(
        input, weight, bias, *autograd.flat(output_size, geometry), activation, negative_slope
    )


def _setup(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    *linear, ctx.activation, ctx.negative_slope = inputs
    autograd.setup_image(ctx, tuple(linear), output)


def _before(ctx: Any, output: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The gradient before the activation from the one after it; of a tangent the other way round."""
    return act.backward_by_output(gradient, output, ctx.activation, ctx.negative_slope)


def _separate_gradients(
    ctx: Any, input: torch.Tensor | None, weight: torch.Tensor | None, output: torch.Tensor, grad_output: torch.Tensor
) -> autograd.Gradients:
    """Those of the strided convolution by torch's gradient of the activation and the linear maps."""
    return autograd.strided_gradients(ctx, input, weight, _before(ctx, output, grad_output))


def _fused_gradients(
    ctx: Any, input: torch.Tensor | None, weight: torch.Tensor | None, output: torch.Tensor, grad_output: torch.Tensor
) -> autograd.Gradients | None:
    """Those of the strided convolution by kernels that differentiate the activation where they load the gradient; None
    where no backend with such kernels is chosen, or somebody differentiates the gradient again."""
    op, bias = "conv2d_act_backward", ctx.needs_input_grad[2]
    if torch.is_grad_enabled() or not forward_mode.bare(grad_output, output):
        return None
    if not has_tables() and not selects("triton", op, grad_output):
        return None
    arguments = (
        grad_output, output, input, weight, bias, tuple(ctx.input_size), tuple(ctx.kernel_size), *ctx.geometry,
        ctx.activation, ctx.negative_slope,
    )  # fmt: skip
    if has_tables():
        instead = functools.partial(_separate_gradients, ctx, input, weight, output, grad_output)
        if not selects("triton", op, *arguments, instead=instead):
            return None
    gradients = call(op, *arguments)
    wanted = (weight is not None, input is not None, bias)
    grad_input, grad_weight, grad_bias = (g if want else None for g, want in zip(gradients, wanted, strict=True))
    return grad_input, grad_weight, grad_bias


class ConvTranspose2dAct(torch.autograd.Function):
    """(input, weight, bias, nine numbers, activation, negative_slope) -> output."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        size_h: int,
        size_w: int,
        stride_h: int,
        stride_w: int,
        padding_h: int,
        padding_w: int,
        dilation_h: int,
        dilation_w: int,
        groups: int,
        activation: int,
        negative_slope: float,
    ) -> torch.Tensor:
        return call(
            "conv_transpose2d_act",
            input,
            weight,
            bias,
            (size_h, size_w),
            (stride_h, stride_w),
            (padding_h, padding_w),
            (dilation_h, dilation_w),
            groups,
            activation,
            negative_slope,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _setup(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor | None) -> tuple[Any, ...]:
        if grad_output is None:
            return (None,) * (3 + _NUMBERS)
        input, weight, output = ctx.saved_tensors
        before = _before(ctx, output, grad_output)
        return *autograd.transposed_gradients(ctx, input, weight, before), *(None,) * _NUMBERS


class ConvTranspose2dActWithJvp(ConvTranspose2dAct):
    """Differentiable in forward mode too."""

    @staticmethod
    def forward(*args: Any) -> torch.Tensor:
        return ConvTranspose2dAct.forward(*args)

    @staticmethod
    def jvp(
        ctx: Any, input: torch.Tensor | None, weight: torch.Tensor | None, bias: torch.Tensor | None, *_: Any
    ) -> torch.Tensor | None:
        tangent = autograd.image_tangent(ctx, autograd.conv_transpose2d, input, weight, bias)
        return None if tangent is None else _before(ctx, ctx.saved_tensors[2], tangent)


class Conv2dAct(torch.autograd.Function):
    """(input, weight, bias, nine numbers, activation, negative_slope) -> output."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        size_h: int,
        size_w: int,
        stride_h: int,
        stride_w: int,
        padding_h: int,
        padding_w: int,
        dilation_h: int,
        dilation_w: int,
        groups: int,
        activation: int,
        negative_slope: float,
    ) -> torch.Tensor:
        return call(
            "conv2d_act",
            input,
            weight,
            bias,
            (size_h, size_w),
            (stride_h, stride_w),
            (padding_h, padding_w),
            (dilation_h, dilation_w),
            groups,
            activation,
            negative_slope,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _setup(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor | None) -> tuple[Any, ...]:
        if grad_output is None:
            return (None,) * (3 + _NUMBERS)
        input, weight, output = ctx.saved_tensors
        gradients = _fused_gradients(ctx, input, weight, output, grad_output)
        if gradients is None:
            gradients = _separate_gradients(ctx, input, weight, output, grad_output)
        return *gradients, *(None,) * _NUMBERS


class Conv2dActWithJvp(Conv2dAct):
    """Differentiable in forward mode too."""

    @staticmethod
    def forward(*args: Any) -> torch.Tensor:
        return Conv2dAct.forward(*args)

    @staticmethod
    def jvp(
        ctx: Any, input: torch.Tensor | None, weight: torch.Tensor | None, bias: torch.Tensor | None, *_: Any
    ) -> torch.Tensor | None:
        tangent = autograd.image_tangent(ctx, autograd.conv2d, input, weight, bias)
        return None if tangent is None else _before(ctx, ctx.saved_tensors[2], tangent)
