"""The links of a chain [batch norm + activation -> convolution -> statistics] as ops: schemas, fakes, backends."""

from __future__ import annotations

from typing import Any

import torch

from fastgan.dispatch import Backend, always, define
from fastgan.ops.common import triton_runtime
from fastgan.ops.common.dtypes import accumulate_type
from fastgan.ops.common.flops import register_flops
from fastgan.ops.common.tuning_key import of_arguments
from fastgan.ops.conv_transpose2d import conv_flops, image_fake
from fastgan.ops.conv_transpose2d import reference as maps
from fastgan.ops.conv_transpose2d.chain import reference
from fastgan.ops.conv_transpose2d.geometry import Geometry, Pair, output_memory_format

_GEOMETRY = "SymInt[2] stride, SymInt[2] padding, SymInt[2] dilation, SymInt groups"
_TAKEN = "Tensor input, Tensor? mean, Tensor? rstd, Tensor? gamma, Tensor? beta, Tensor? beside"
_END = "int activation, float negative_slope"
_CONVOLUTIONS = {"conv_transpose2d": maps.conv_transpose2d, "conv2d": maps.conv2d}
_CHANNELS: dict[str, Any] = {
    "conv_transpose2d": lambda weight, groups: weight.shape[1] * groups,
    "conv2d": lambda weight, groups: weight.shape[0],
}


def norm_of(vectors: tuple[torch.Tensor | None, ...], activation: int, negative_slope: float) -> reference.Norm | None:
    """The batch norm before the convolution, None without one."""
    mean, rstd, gamma, beta = vectors
    if mean is None or rstd is None:
        return None
    return reference.Norm(mean, rstd, gamma, beta, activation, negative_slope)


def _vector(like: torch.Tensor, channels: int) -> torch.Tensor:
    return like.new_empty(channels, dtype=accumulate_type(like.dtype))


def _forward_fake(name: str) -> Any:
    image = image_fake(_CHANNELS[name])

    def fake(
        input: torch.Tensor, mean: Any, rstd: Any, gamma: Any, beta: Any, beside: Any, weight: torch.Tensor,
        bias: Any, running_mean: Any, running_var: Any, output_size: Pair, stride: Pair, padding: Pair, dilation: Pair,
        groups: int, *_: Any,
    ) -> tuple[torch.Tensor, ...]:  # fmt: skip
        output = image(input, weight, bias, output_size, stride, padding, dilation, groups)
        return output, _vector(output, output.shape[1]), _vector(output, output.shape[1])

    return fake


def _backward_fake(name: str) -> Any:
    def fake(
        grad_output: torch.Tensor, grad_mean: Any, grad_rstd: Any, output: torch.Tensor, output_mean: Any,
        output_rstd: Any, input: torch.Tensor, mean: Any, rstd: Any, gamma: Any, beta: Any, beside: Any,
        weight: torch.Tensor, of_input: bool, of_beside: bool, of_weight: bool, *_: Any,
    ) -> tuple[torch.Tensor, ...]:  # fmt: skip
        vectors = [_vector(input, input.shape[1] if of_input and mean is not None else 0) for _ in range(4)]
        grad_input = torch.empty_like(input) if of_input else input.new_empty(0)
        grad_beside = torch.empty_like(beside) if of_beside and beside is not None else input.new_empty(0)
        grad_weight = input.new_empty(0)
        if of_weight:
            memory_format = output_memory_format(input, output)
            grad_weight = torch.empty(weight.shape, dtype=input.dtype, device=input.device, memory_format=memory_format)
        return grad_input, grad_beside, grad_weight, *vectors

    return fake


def _reference_forward(name: str) -> Any:
    def run(input: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
        vectors, (beside, weight, bias, *running), size = args[:4], args[4:9], tuple(args[9])
        stride, padding, dilation, groups, momentum, eps, *end = args[10:]
        geometry = Geometry(tuple(stride), tuple(padding), tuple(dilation), groups)
        norm = norm_of(vectors, *end)
        return tuple(
            reference.forward(
                _CONVOLUTIONS[name], input, norm, beside, weight, bias, tuple(running), size, geometry, momentum, eps
            )
        )

    return run


def _reference_backward(name: str) -> Any:
    def run(*args: Any) -> tuple[torch.Tensor, ...]:
        (grad_output, grad_mean, grad_rstd), result, input = args[:3], reference.Output(*args[3:6]), args[6]
        vectors, (beside, weight) = args[7:11], args[11:13]
        of_input, of_beside, of_weight, stride, padding, dilation, groups, *end = args[13:]
        geometry = Geometry(tuple(stride), tuple(padding), tuple(dilation), groups)
        maps_back = reference.maps(input, weight, geometry, name == "conv_transpose2d")
        grad_input, grad_beside, grad_weight, *found = reference.gradients(
            maps_back[0] if of_input or of_beside else None,
            maps_back[1] if of_weight else None,
            reference.gradient_before(grad_output, grad_mean, grad_rstd, result),
            input,
            norm_of(vectors, *end),
            beside,
        )
        grad_input, grad_beside = (
            input.new_empty(0) if gradient is None or not wanted else torch.empty_like(image).copy_(gradient)
            for image, gradient, wanted in ((input, grad_input, of_input), (beside, grad_beside, of_beside))
        )
        found = found if of_input else [None] * 4
        if grad_weight is None:
            grad_weight = input.new_empty(0)
        else:
            grad_weight = grad_weight.contiguous(memory_format=output_memory_format(input, result.output))
        return grad_input, grad_beside, grad_weight, *(_vector(input, 0) if g is None else g for g in found)

    return run


def _triton(name: str, function: str) -> Any:
    def run(*args: Any) -> tuple[torch.Tensor, ...]:
        from fastgan.ops.conv_transpose2d.chain import triton_launch  # on first use: see conv_transpose2d

        result: tuple[torch.Tensor, ...] = getattr(triton_launch, function)(name, *args)
        return result

    return run


def _define(name: str) -> None:
    # No GPU measurement is committed yet, so Triton is not chosen unasked.
    define(
        f"{name}_stats({_TAKEN}, Tensor weight, Tensor? bias, Tensor(a!)? running_mean, "
        f"Tensor(b!)? running_var, SymInt[2] output_size, {_GEOMETRY}, float momentum, float eps, {_END}) -> "
        "(Tensor output, Tensor mean, Tensor rstd)",
        _forward_fake(name),
        [
            Backend("triton", _triton(name, "forward"), triton_runtime.reason),
            Backend("reference", _reference_forward(name), always),
        ],
        tuning_key=of_arguments(0, 5),
    )
    define(
        f"{name}_stats_backward(Tensor grad_output, Tensor grad_mean, Tensor grad_rstd, Tensor output, "
        f"Tensor output_mean, Tensor output_rstd, {_TAKEN}, Tensor weight, bool of_input, bool of_beside, "
        f"bool of_weight, {_GEOMETRY}, {_END}) -> "
        "(Tensor grad_input, Tensor grad_beside, Tensor grad_weight, Tensor grad_mean, Tensor grad_rstd, "
        "Tensor grad_gamma, Tensor grad_beta)",
        _backward_fake(name),
        [
            Backend("triton", _triton(name, "backward"), triton_runtime.reason),
            Backend("reference", _reference_backward(name), always),
        ],
        tuning_key=of_arguments(0, 3, 6, 11),
    )


def _link_flops(name: str) -> Any:
    transposed = name == "conv_transpose2d"

    def forward(image: Any, *args: Any, out_shape: Any) -> int:
        weight = args[5]
        return conv_flops(image if transposed else out_shape[0], weight)

    def backward(*args: Any, out_shape: Any) -> int:
        output, image, beside, weight, of_input, of_beside, of_weight = args[3], args[6], *args[11:16]
        small = image if transposed else output
        whole, own = conv_flops(small, weight), image[1] / (image[1] + (0 if beside is None else beside[1]))
        return round((bool(of_weight) + bool(of_input) * own + bool(of_beside) * (1 - own)) * whole)

    return forward, backward


for _name in _CONVOLUTIONS:
    _define(_name)
    for _op, _formula in zip((f"{_name}_stats", f"{_name}_stats_backward"), _link_flops(_name), strict=True):
        register_flops(_op, _formula)
