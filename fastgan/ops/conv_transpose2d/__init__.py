"""The convolution slice: schemas, fake kernels and the backends of three linear maps that are closed under
differentiation, and of two of them followed by an activation. See README.md beside this file for the derivation."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch

from fastgan.dispatch import Backend, always, define
from fastgan.ops.common import activation, triton_runtime
from fastgan.ops.common.flops import register_flops
from fastgan.ops.conv_transpose2d import batching, native, reference, tuning_key
from fastgan.ops.conv_transpose2d.geometry import Geometry, Pair, output_memory_format

_GEOMETRY = "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups"


def _pairs(stride: Any, padding: Any, dilation: Any, groups: int) -> Geometry:
    return Geometry(tuple(stride), tuple(padding), tuple(dilation), groups)


def image_fake(channels: Any) -> Any:
    """The fake of a convolution whose output has ``channels(weight, groups)``."""

    def fake(
        input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, output_size: Pair, *geometry: Any
    ) -> torch.Tensor:
        shape = (input.shape[0], channels(weight, geometry[-1]), *output_size)
        return torch.empty(
            shape, dtype=input.dtype, device=input.device, memory_format=output_memory_format(input, weight)
        )

    return fake


def weight_fake(small: torch.Tensor, big: torch.Tensor, kernel_size: Pair, *geometry: Any) -> torch.Tensor:
    """The fake of the weight gradient."""
    shape = (small.shape[1], big.shape[1] // geometry[-1], *kernel_size)
    return torch.empty(shape, dtype=small.dtype, device=small.device, memory_format=output_memory_format(small, big))


def _reference_image(function: Any) -> Any:
    def run(
        input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, output_size: Pair, *geometry: Any
    ) -> torch.Tensor:
        return function(input, weight, bias, tuple(output_size), _pairs(*geometry))

    return run


def _reference_weight(small: torch.Tensor, big: torch.Tensor, kernel_size: Pair, *geometry: Any) -> torch.Tensor:
    output = reference.conv2d_weight(small, big, tuple(kernel_size), _pairs(*geometry))
    return output.contiguous(memory_format=output_memory_format(small, big))


def _triton(name: str, activated: bool = False) -> Any:
    def run(first: torch.Tensor, second: torch.Tensor, *rest: Any) -> torch.Tensor:
        # imported on first use: Triton must see TRITON_INTERPRET before its kernels exist, and importing it is slow
        from fastgan.ops.conv_transpose2d import triton_launch

        count = 2 if activated else 0
        *bias, size, stride, padding, dilation, groups = rest[: len(rest) - count]
        arguments = (*bias, tuple(size), _pairs(stride, padding, dilation, groups), *rest[len(rest) - count :])
        result = getattr(triton_launch, name)(first, second, *arguments)
        return result[0] if name == "conv2d_weight" else result

    return run


def _backends(name: str, run_native: Any, native_supports: Any, run_reference: Any) -> list[Backend]:
    # No GPU measurement is committed yet, so nothing is chosen over cuDNN unasked.
    return [
        Backend("native", run_native, native_supports, frozenset({"cpu"}), functools.partial(native.pays, name)),
        Backend("triton", _triton(name), triton_runtime.reason),
        Backend("reference", run_reference, always),
    ]


define(
    f"conv_transpose2d(Tensor input, Tensor weight, Tensor? bias, SymInt[2] output_size, {_GEOMETRY}) -> Tensor",
    image_fake(lambda weight, groups: weight.shape[1] * groups),
    _backends(
        "conv_transpose2d", native.conv_transpose2d, native.image_supports, _reference_image(reference.conv_transpose2d)
    ),
    batching.image_rule("conv_transpose2d"),
    tuning_key.image_map,
)
define(
    f"conv2d(Tensor input, Tensor weight, Tensor? bias, SymInt[2] output_size, {_GEOMETRY}) -> Tensor",
    image_fake(lambda weight, groups: weight.shape[0]),
    _backends("conv2d", native.conv2d, native.image_supports, _reference_image(reference.conv2d)),
    batching.image_rule("conv2d"),
    tuning_key.image_map,
)
define(
    f"conv2d_weight(Tensor small, Tensor big, SymInt[2] kernel_size, {_GEOMETRY}) -> Tensor",
    weight_fake,
    _backends("conv2d_weight", native.conv2d_weight, native.weight_supports, _reference_weight),
    batching.weight_rule,
    tuning_key.weight_map,
)


def _of_linear(function: Any) -> Any:
    """``function`` of a linear map's arguments, for its op with an activation."""
    return lambda *args: function(*args[:-2])


def _then_activation(run: Any) -> Any:
    """``run``, which computes a linear map, then the activation on its output."""

    def run_both(*args: Any) -> torch.Tensor:
        *linear, act, negative_slope = args
        return activation.apply_(run(*linear), act, negative_slope)

    return run_both


def _define_activated(name: str, channels: Any, run_native: Any, run_reference: Any) -> None:
    supports = _of_linear(native.image_supports)
    define(
        f"{name}_act(Tensor input, Tensor weight, Tensor? bias, SymInt[2] output_size, {_GEOMETRY}, int activation, "
        "float negative_slope) -> Tensor",
        _of_linear(image_fake(channels)),
        [
            Backend(
                "native",
                run_native,
                supports,
                auto_on=frozenset({"cpu"}),
                pays=_of_linear(functools.partial(native.pays, name)),
            ),
            Backend("triton", _triton(name, activated=True), triton_runtime.reason),
            Backend("reference", _then_activation(run_reference), always),
        ],
        batching.activated_rule(name),
        tuning_key.image_map,
    )


_define_activated(
    "conv_transpose2d",
    lambda weight, groups: weight.shape[1] * groups,
    native.conv_transpose2d_act,
    _reference_image(reference.conv_transpose2d),
)
_define_activated(
    "conv2d", lambda weight, groups: weight.shape[0], native.conv2d_act, _reference_image(reference.conv2d)
)


def _gradients_fake(
    grad_output: torch.Tensor,
    output: torch.Tensor,
    input: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: bool,
    input_size: Pair,
    kernel_size: Pair,
    *geometry: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    groups = geometry[3]
    grad_input, grad_weight, grad_bias = (grad_output.new_empty(0) for _ in range(3))
    if weight is not None:
        grad_input = image_fake(lambda w, groups: w.shape[1] * groups)(output, weight, None, input_size, groups)
    if input is not None:
        grad_weight = weight_fake(output, input, kernel_size, groups)
    if bias:
        grad_bias = grad_output.new_empty(grad_output.shape[1])
    return grad_input, grad_weight, grad_bias


def _reference_gradients(
    grad_output: torch.Tensor,
    output: torch.Tensor,
    input: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: bool,
    input_size: Pair,
    kernel_size: Pair,
    *rest: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    *geometry, act, negative_slope = rest
    grad = torch.empty_like(output).copy_(activation.backward_by_output(grad_output, output, act, negative_slope))
    grad_input, grad_weight, grad_bias = (grad_output.new_empty(0) for _ in range(3))
    if weight is not None:
        grad_input = _reference_image(reference.conv_transpose2d)(grad, weight, None, input_size, *geometry)
    if input is not None:
        grad_weight = _reference_weight(grad, input, kernel_size, *geometry)
    return grad_input, grad_weight, grad.sum((0, 2, 3)) if bias else grad_bias


def _triton_gradients(*args: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from fastgan.ops.conv_transpose2d import triton_launch

    *head, stride, padding, dilation, groups, act, negative_slope = args
    gradients: Any = triton_launch.conv2d_act_backward
    return gradients(*head, _pairs(stride, padding, dilation, groups), act, negative_slope)


define(
    "conv2d_act_backward(Tensor grad_output, Tensor output, Tensor? input, Tensor? weight, bool bias, "
    f"SymInt[2] input_size, SymInt[2] kernel_size, {_GEOMETRY}, int activation, float negative_slope) "
    "-> (Tensor, Tensor, Tensor)",
    _gradients_fake,
    [
        Backend("triton", _triton_gradients, triton_runtime.reason),
        Backend("reference", _reference_gradients, always),
    ],
    tuning_key=tuning_key.gradients,
)


def conv_flops(small: Any, weight: Any) -> int:
    """Every pixel of the small image meets every tap of its group: a product and a sum each."""
    return 2 * small[0] * math.prod(small[2:]) * math.prod(weight)


for _end in ("", "_act"):
    register_flops(f"conv_transpose2d{_end}", lambda small, weight, *_rest, out_shape: conv_flops(small, weight))
    register_flops(f"conv2d{_end}", lambda _big, weight, *_rest, out_shape: conv_flops(out_shape, weight))
register_flops("conv2d_weight", lambda small, _big, *_rest, out_shape: conv_flops(small, out_shape))
register_flops(
    "conv2d_act_backward",
    lambda _grad, small, big, weight, _bias, _size, kernel_size, *_rest, out_shape: sum(
        conv_flops(small, (small[1], channels, *kernel_size))
        for channels in ((weight[1],) if weight else ()) + ((out_shape[1][1],) if big else ())
    ),
)
