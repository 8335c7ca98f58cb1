"""Launches a chain's links as Triton kernels: those of the convolutions, which normalise, activate and undo a batch
norm where they load, and tell the statistics of what they store."""

from __future__ import annotations

from typing import Any

import torch

from fastgan.ops.common import triton_statistics as kernels
from fastgan.ops.common.dtypes import accumulate_type
from fastgan.ops.common.statistics import stats
from fastgan.ops.common.triton_runtime import cdiv, launch_device, power_of_two
from fastgan.ops.conv_transpose2d import triton_launch as maps
from fastgan.ops.conv_transpose2d import triton_plans as plans
from fastgan.ops.conv_transpose2d.chain.reference import split_weight
from fastgan.ops.conv_transpose2d.chain.triton_kernels import beside_gradients_kernel
from fastgan.ops.conv_transpose2d.geometry import Geometry, Pair, output_memory_format
from fastgan.ops.conv_transpose2d.triton_arguments import End, dense, empty, layout

_MERGED = 512  # values of a step of a merge; more would spill
Vector = torch.Tensor | None


def forward(
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
    output_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    momentum: float,
    eps: float,
    activation: int,
    negative_slope: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(output, mean, rstd). As ``reference.forward``."""
    geometry, end = Geometry(tuple(stride), tuple(padding), tuple(dilation), groups), End()
    behind = None if mean is None or rstd is None else _norm(mean, rstd, gamma, beta)
    activation = 0 if behind is None else activation
    arguments = (input, weight, bias, tuple(output_size), geometry, int(activation), negative_slope)
    output: torch.Tensor = getattr(maps, name)(*arguments, behind, beside, end)
    return output, *_statistics(end, output, (running_mean, running_var), momentum, eps)


def backward(
    name: str,
    grad_output: torch.Tensor,
    grad_mean: torch.Tensor,
    grad_rstd: torch.Tensor,
    output: torch.Tensor,
    output_mean: torch.Tensor,
    output_rstd: torch.Tensor,
    input: torch.Tensor,
    mean: Vector,
    rstd: Vector,
    gamma: Vector,
    beta: Vector,
    beside: torch.Tensor | None,
    weight: torch.Tensor,
    of_input: bool,
    of_beside: bool,
    of_weight: bool,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
    activation: int,
    negative_slope: float,
) -> tuple[torch.Tensor, ...]:
    """(grad_input, grad_beside, grad_weight, and those of mean, rstd, gamma, beta). As ``reference.gradients``."""
    geometry = Geometry(tuple(stride), tuple(padding), tuple(dilation), groups)
    transposed, accumulate = name == "conv_transpose2d", accumulate_type(input.dtype)
    if grad_output.stride() != output.stride():
        grad_output = torch.empty_like(output).copy_(grad_output)
    if grad_output.stride() != output.stride():
        output = torch.empty_like(grad_output).copy_(output)
    count = max(output.numel() // output.shape[1], 1)
    before = (output, *(dense(v) for v in (output_mean, output_rstd, grad_mean, grad_rstd)), count)
    norm = None if mean is None or rstd is None else _norm(mean, rstd, gamma, beta)
    act = (int(activation) if norm is not None else 0), negative_slope
    grad_input, grad_beside, grad_weight = (input.new_empty(0) for _ in range(3))
    first, rest = split_weight(weight, input.shape[1], transposed) if beside is not None else (weight, weight)
    back = maps.conv2d if transposed else maps.conv_transpose2d
    vectors = [input.new_empty(0, dtype=accumulate) for _ in range(4)]
    if of_input:
        end = None if norm is None else End((input, *norm))
        grad_input = back(grad_output, first, None, tuple(input.shape[2:]), geometry, *act, before, None, end)
        if norm is not None and end is not None:
            vectors = _vector_gradients(end, norm, input)
        grad_input = _laid_out_as(input, grad_input)
    grads, kernel = (grad_output, before), tuple(weight.shape[2:])
    if of_weight:
        grad_weight = _of_weight((input, norm), grads, kernel, geometry, transposed, *act)
    if beside is None:
        return grad_input, grad_beside, grad_weight, *vectors
    both = _of_beside(*grads, beside, rest, geometry, transposed) if of_beside and of_weight else None
    if both is not None:
        grad_beside = both[0]
    elif of_beside:
        grad_beside = back(grad_output, rest, None, tuple(beside.shape[2:]), geometry, 0, 0.0, before)
        grad_beside = _laid_out_as(beside, grad_beside)
    if of_weight:
        of_rest = both[1] if both is not None else _of_weight((beside, None), grads, kernel, geometry, transposed)
        grad_weight = torch.cat((grad_weight, of_rest), 0 if transposed else 1)
        grad_weight = grad_weight.contiguous(memory_format=output_memory_format(input, output))
    return grad_input, grad_beside, grad_weight, *vectors


def _of_weight(
    taken: tuple[torch.Tensor, Any],
    grads: tuple[torch.Tensor, Any],
    kernel: Pair,
    geometry: Geometry,
    transposed: bool,
    activation: int = 0,
    negative_slope: float = 0.0,
) -> torch.Tensor:
    """The gradient of the weight's part for what the convolution took, an image and what is behind it."""
    (small, small_behind), (big, big_behind) = (taken, grads) if transposed else (grads, taken)
    behind = activation, negative_slope, small_behind, big_behind
    return maps.conv2d_weight(small, big, kernel, geometry, *behind)[0]


def _of_beside(
    grad_output: torch.Tensor,
    before: tuple[Any, ...],
    beside: torch.Tensor,
    weight: torch.Tensor,
    geometry: Geometry,
    transposed: bool,
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The gradients of the channels beside and of their part of the weight, in one launch that reads the gradient of
    the output and the output once; None where two launches do better."""
    plan = plans.beside(layout(grad_output), layout(beside), layout(weight), geometry, transposed)
    if plan is None:
        return None
    memory_format = torch.contiguous_format if beside.is_contiguous() else torch.channels_last
    grad_beside = empty(tuple(beside.shape), beside, memory_format)
    shares = empty(plan.shape, beside, plan.memory_format, accumulate_type(beside.dtype))
    with launch_device(beside):
        beside_gradients_kernel[plan.grid](
            grad_output, before, beside, weight, grad_beside, shares, *plan.numbers, *grad_beside.stride(),
            **plan.options,
        )  # fmt: skip
    by_tap = shares.sum(0).to(weight.dtype)  # [KH, KW, B, C]
    of_rest = by_tap.permute(2, 3, 0, 1) if transposed else by_tap.permute(3, 2, 0, 1)
    return _laid_out_as(beside, grad_beside), of_rest


def _laid_out_as(image: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    like = torch.empty_like(image)
    return gradient if gradient.stride() == like.stride() else like.copy_(gradient)


def _norm(mean: torch.Tensor, rstd: torch.Tensor, gamma: Vector, beta: Vector) -> tuple[torch.Tensor, ...]:
    """A batch norm's vectors, each there and dense."""
    gamma = torch.ones_like(mean) if gamma is None else gamma
    beta = torch.zeros_like(mean) if beta is None else beta
    return mean.contiguous(), rstd.contiguous(), gamma.contiguous(), beta.contiguous()


def _vector(like: torch.Tensor) -> torch.Tensor:
    return empty((like.shape[1],), like, torch.contiguous_format, accumulate_type(like.dtype))


def _merge(channels: int, tiles: int) -> tuple[tuple[int], dict[str, int]]:
    """Grid and blocks of a merge: few channels a program, whose programs have many tiles each to go through."""
    block_c = min(power_of_two(channels), 8)  # a sector of memory
    return (cdiv(channels, block_c),), {
        "BLOCK_T": min(power_of_two(tiles), _MERGED // block_c),
        "BLOCK_C": block_c,
    }


def _statistics(
    end: End, output: torch.Tensor, running: tuple[Vector, Vector], momentum: float, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    if output.numel() == 0:  # nothing was launched
        return stats(output.to(accumulate_type(output.dtype)), *running, momentum, eps)
    channels = output.shape[1]
    mean, rstd = (_vector(output) for _ in range(2))
    grid, blocks = _merge(channels, end.tiles)
    running_mean, running_var = running
    both = None if running_mean is None or running_var is None else (running_mean, running_var)
    with launch_device(output):
        kernels.statistics_merge_kernel[grid](
            end.parts, mean, rstd, both, float(momentum), float(eps), end.tiles, channels,
            *((0, 0) if both is None else (v.stride(0) for v in both)), **blocks,
        )  # fmt: skip
    return mean, rstd


def _vector_gradients(end: End, norm: tuple[torch.Tensor, ...], input: torch.Tensor) -> list[torch.Tensor]:
    """Those of mean, rstd, gamma, beta."""
    channels = input.shape[1]
    gradients = [_vector(input) for _ in range(4)]
    if end.parts is None:  # nothing was launched
        return [gradient.zero_() for gradient in gradients]
    grid, blocks = _merge(channels, end.tiles)
    with launch_device(input):
        kernels.gradients_merge_kernel[grid](end.parts, *norm[1:3], *gradients, end.tiles, channels, **blocks)
    return gradients
