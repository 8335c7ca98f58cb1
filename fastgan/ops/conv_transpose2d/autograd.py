"""Backward of the convolutions. The transposed convolution, its adjoint and the weight gradient are bilinear maps, and
each one's gradients are the other two: every order of gradient comes for free, and nothing is special-cased.

Gradient order: any, backward and forward. The Functions save their operands and nothing else.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from fastgan.dispatch import call, chosen_gradient, record
from fastgan.ops.common import forward_mode
from fastgan.ops.conv_transpose2d import reference
from fastgan.ops.conv_transpose2d.geometry import Geometry, Pair


def conv_transpose2d(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, output_size: Pair, geometry: Geometry
) -> torch.Tensor:
    """The transposed convolution, differentiable any number of times."""
    if forward_mode.bare(input, weight, bias):
        return call("conv_transpose2d", input, weight, bias, output_size, *geometry)
    return forward_mode.with_jvp(ConvTranspose2d, ConvTranspose2dWithJvp).apply(
        input, weight, bias, *flat(output_size, geometry)
    )


def conv2d(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, output_size: Pair, geometry: Geometry
) -> torch.Tensor:
    """The strided convolution, differentiable any number of times."""
    if forward_mode.bare(input, weight, bias):
        return call("conv2d", input, weight, bias, output_size, *geometry)
    return forward_mode.with_jvp(Conv2d, Conv2dWithJvp).apply(input, weight, bias, *flat(output_size, geometry))


def conv2d_weight(small: torch.Tensor, big: torch.Tensor, kernel_size: Pair, geometry: Geometry) -> torch.Tensor:
    """The weight gradient of both, differentiable any number of times."""
    if forward_mode.bare(small, big):
        return call("conv2d_weight", small, big, kernel_size, *geometry)
    return forward_mode.with_jvp(Conv2dWeight, Conv2dWeightWithJvp).apply(small, big, *flat(kernel_size, geometry))


# A Function's arguments are plain numbers, one by one: torch.func knows no tuples there, torch.compile no ``*args``.
_NUMBERS = 9


def flat(size: Pair, geometry: Geometry) -> tuple[int, ...]:
    return (*size, *geometry.stride, *geometry.padding, *geometry.dilation, geometry.groups)


def _geometry(numbers: tuple[int, ...]) -> Geometry:
    return Geometry(numbers[2:4], numbers[4:6], numbers[6:8], numbers[8])


def _bias_gradient(grad_output: torch.Tensor, needed: bool) -> torch.Tensor | None:
    return grad_output.sum((0, 2, 3)) if needed else None


Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]


def transposed_gradients(
    ctx: Any, input: torch.Tensor | None, weight: torch.Tensor | None, grad_output: torch.Tensor
) -> Gradients:
    """Those of input, weight and bias of the transposed convolution, from its operands as ``ctx`` saved them: the
    caller unpacks them once, as torch's checkpoints demand."""
    grad_input = grad_weight = None
    torchs = _by_torch(ctx, input, weight, grad_output, transposed=True)
    if weight is not None:
        grad_input = _gradient(ctx, conv2d, (grad_output, weight, None, ctx.input_size), torchs)
    if input is not None:
        grad_weight = _gradient(ctx, conv2d_weight, (input, grad_output, ctx.kernel_size), torchs)
    return grad_input, grad_weight, _bias_gradient(grad_output, ctx.needs_input_grad[2])


def strided_gradients(
    ctx: Any, input: torch.Tensor | None, weight: torch.Tensor | None, grad_output: torch.Tensor
) -> Gradients:
    """Those of input, weight and bias of the strided convolution, from its operands as ``ctx`` saved them: the
    caller unpacks them once, as torch's checkpoints demand."""
    grad_input = grad_weight = None
    if weight is not None:
        torchs = _by_torch(ctx, input, weight, grad_output, transposed=False)
        grad_input = _gradient(ctx, conv_transpose2d, (grad_output, weight, None, ctx.input_size), torchs)
    if input is not None:  # what torch's backward does here is what the reference is
        grad_weight = conv2d_weight(grad_output, input, ctx.kernel_size, ctx.geometry)
    return grad_input, grad_weight, _bias_gradient(grad_output, ctx.needs_input_grad[2])


def _by_torch(
    ctx: Any, input: torch.Tensor | None, weight: torch.Tensor | None, grad_output: torch.Tensor, transposed: bool
) -> Callable[[bool], torch.Tensor | None]:
    """The gradient of the input, or else of the weight, by torch's own backward."""
    sizes = ctx.input_size, ctx.kernel_size, ctx.geometry
    return lambda of_input: reference.gradient(grad_output, input, weight, *sizes, transposed, of_input)


def _gradient(
    ctx: Any,
    function: Callable[..., torch.Tensor],
    arguments: tuple[Any, ...],
    torchs: Callable[[bool], torch.Tensor | None],
) -> torch.Tensor:
    """``function``, one of the three maps, as a gradient. Where the reference is chosen for it torch's own backward
    runs: it rounds otherwise than torch's forward convolution that the map is."""
    op, first, second = function.__name__, *arguments[:2]
    instead = functools.partial(torchs, op != "conv2d_weight")
    bare = forward_mode.bare(first, second)
    backend = chosen_gradient(op, instead, *arguments, *ctx.geometry) if bare else None
    if backend is None:
        return function(*arguments, ctx.geometry)
    record(op, backend.name)
    gradient = instead() if backend.name == "reference" else None
    return backend.run(*arguments, *ctx.geometry) if gradient is None else gradient


class ConvTranspose2d(torch.autograd.Function):
    """(input, weight, bias, nine numbers) -> output."""

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
    ) -> torch.Tensor:
        return call(
            "conv_transpose2d",
            input,
            weight,
            bias,
            (size_h, size_w),
            (stride_h, stride_w),
            (padding_h, padding_w),
            (dilation_h, dilation_w),
            groups,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        setup_image(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor | None) -> tuple[Any, ...]:
        if grad_output is None:
            return (None,) * (3 + _NUMBERS)
        input, weight = ctx.saved_tensors
        return *transposed_gradients(ctx, input, weight, grad_output), *(None,) * _NUMBERS


class ConvTranspose2dWithJvp(ConvTranspose2d):
    """Differentiable in forward mode too."""

    @staticmethod
    def forward(*args: Any) -> torch.Tensor:  # torch binds the arguments to names in every call: the fewer, the faster
        return ConvTranspose2d.forward(*args)

    @staticmethod
    def jvp(
        ctx: Any, input: torch.Tensor | None, weight: torch.Tensor | None, bias: torch.Tensor | None, *_: Any
    ) -> torch.Tensor | None:
        return image_tangent(ctx, conv_transpose2d, input, weight, bias)


class Conv2d(torch.autograd.Function):
    """(input, weight, bias, nine numbers) -> output."""

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
    ) -> torch.Tensor:
        return call(
            "conv2d",
            input,
            weight,
            bias,
            (size_h, size_w),
            (stride_h, stride_w),
            (padding_h, padding_w),
            (dilation_h, dilation_w),
            groups,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        setup_image(ctx, inputs)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor | None) -> tuple[Any, ...]:
        if grad_output is None:
            return (None,) * (3 + _NUMBERS)
        input, weight = ctx.saved_tensors
        return *strided_gradients(ctx, input, weight, grad_output), *(None,) * _NUMBERS


class Conv2dWithJvp(Conv2d):
    """Differentiable in forward mode too."""

    @staticmethod
    def forward(*args: Any) -> torch.Tensor:
        return Conv2d.forward(*args)

    @staticmethod
    def jvp(
        ctx: Any, input: torch.Tensor | None, weight: torch.Tensor | None, bias: torch.Tensor | None, *_: Any
    ) -> torch.Tensor | None:
        return image_tangent(ctx, conv2d, input, weight, bias)


class Conv2dWeight(torch.autograd.Function):
    """(small, big, nine numbers) -> weight-shaped tensor."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        small: torch.Tensor,
        big: torch.Tensor,
        size_h: int,
        size_w: int,
        stride_h: int,
        stride_w: int,
        padding_h: int,
        padding_w: int,
        dilation_h: int,
        dilation_w: int,
        groups: int,
    ) -> torch.Tensor:
        return call(
            "conv2d_weight",
            small,
            big,
            (size_h, size_w),
            (stride_h, stride_w),
            (padding_h, padding_w),
            (dilation_h, dilation_w),
            groups,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        small, big, *numbers = inputs
        ctx.set_materialize_grads(False)
        ctx.geometry = _geometry(tuple(numbers))
        ctx.sizes = tuple(small.shape[2:]), tuple(big.shape[2:])
        ctx.kernel_size = tuple(numbers[:2])
        ctx.save_for_backward(small if ctx.needs_input_grad[1] else None, big if ctx.needs_input_grad[0] else None)
        ctx.save_for_forward(small, big)

    @staticmethod
    def backward(ctx: Any, grad_weight: torch.Tensor | None) -> tuple[Any, ...]:
        if grad_weight is None:
            return (None,) * (2 + _NUMBERS)
        small, big = ctx.saved_tensors
        small_size, big_size = ctx.sizes
        grad_small = grad_big = None
        if ctx.needs_input_grad[0]:
            grad_small = conv2d(big, grad_weight, None, small_size, ctx.geometry)
        if ctx.needs_input_grad[1]:
            grad_big = conv_transpose2d(small, grad_weight, None, big_size, ctx.geometry)
        return grad_small, grad_big, *(None,) * _NUMBERS


class Conv2dWeightWithJvp(Conv2dWeight):
    """Differentiable in forward mode too."""

    @staticmethod
    def forward(*args: Any) -> torch.Tensor:
        return Conv2dWeight.forward(*args)

    @staticmethod
    def jvp(ctx: Any, small: torch.Tensor | None, big: torch.Tensor | None, *_: Any) -> torch.Tensor | None:
        forward_mode.refuse_nested("conv2d_weight")
        from_small, from_big = ctx.saved_tensors
        terms = [
            conv2d_weight(one, other, ctx.kernel_size, ctx.geometry)
            for one, other in ((small, from_big), (from_small, big))
            if one is not None and other is not None
        ]
        return forward_mode.add(terms)


def setup_image(ctx: Any, inputs: tuple[Any, ...], *after: torch.Tensor) -> None:
    """Of (input, weight, bias, nine numbers) what the gradients need, and ``after`` them what else is to be saved."""
    input, weight, _, *numbers = inputs
    ctx.set_materialize_grads(False)
    ctx.geometry = _geometry(tuple(numbers))
    ctx.input_size, ctx.kernel_size, ctx.output_size = input.shape[2:], weight.shape[2:], tuple(numbers[:2])
    needed = (input if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)
    ctx.save_for_backward(*needed, *after)
    ctx.save_for_forward(input, weight, *after)


def image_tangent(
    ctx: Any,
    function: Callable[..., torch.Tensor],
    input: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> torch.Tensor | None:
    """The tangent of a bilinear map of input and weight, plus the bias, from those of its operands."""
    forward_mode.refuse_nested(function.__name__)
    from_input, from_weight = ctx.saved_tensors[:2]
    terms = [
        function(one, other, None, ctx.output_size, ctx.geometry)
        for one, other in ((input, from_weight), (from_input, weight))
        if one is not None and other is not None
    ]
    if bias is not None:
        size = (from_input.shape[0], bias.shape[0], *ctx.output_size)
        terms.append(bias[:, None, None].expand(size))
    return forward_mode.add(terms)
