"""Launches the Triton kernels of this slice as :mod:`triton_plans` has it."""

from __future__ import annotations

import torch

from fastgan.ops.common import activation as activations
from fastgan.ops.common.activation import Activation
from fastgan.ops.common.dtypes import accumulate_type
from fastgan.ops.common.triton_runtime import launch_device
from fastgan.ops.conv_transpose2d import triton_columns as columns
from fastgan.ops.conv_transpose2d import triton_kernels as kernels
from fastgan.ops.conv_transpose2d import triton_plans as plans
from fastgan.ops.conv_transpose2d.geometry import Geometry, Pair
from fastgan.ops.conv_transpose2d.triton_arguments import (
    Behind,
    End,
    add_splits,
    beside_operand,
    close_splits,
    dense,
    empty,
    fused_activation,
    layout,
    split_output,
)


def conv_transpose2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    output_size: Pair,
    geometry: Geometry,
    activation: int = Activation.NONE,
    negative_slope: float = 0.0,
    behind: Behind = None,
    beside: torch.Tensor | None = None,
    end: End | None = None,
) -> torch.Tensor:
    """Small [N, C_in, h, w] -> activation(big [N, C_out, H, W]); all phases in one launch. The activation is that of
    ``behind`` or ``end`` where one of them is given, and the output has none. Tensors in ``behind`` have the strides of
    the input. ``beside``, only with an ``end`` and without groups: the channels of the weight after the input's."""
    more = None if beside is None else layout(beside)
    taken = 0 if behind is None else len(behind)
    plan = plans.up(layout(input), layout(weight), more, output_size, geometry, taken, end is not None)
    output = empty(plan.shape, input, plan.memory_format)
    if not plan.grid:
        return output
    act, later = fused_activation(input, activation, behind)
    with launch_device(input):
        if plan.columns:
            columns.conv_transpose2d_columns_kernel[plan.grid](
                input, behind, weight, dense(bias), output, float(negative_slope), *plan.numbers,
                ACTIVATION=act, **plan.options,
            )  # fmt: skip
        else:
            split, bias_here = split_output(output, bias, plan.splits)
            kernels.conv_transpose2d_kernel[plan.grid](
                input, behind, beside_operand(beside), weight, bias_here, split, _told(end, plan, output),
                float(negative_slope), *plan.numbers, ACTIVATION=_within(act, plan, behind), **plan.options,
            )  # fmt: skip
            _finish(split, bias, output, behind, end, act, negative_slope, plan.splits)
    return activations.apply_(output, later, negative_slope)


def conv2d(
    input: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    output_size: Pair,
    geometry: Geometry,
    activation: int = Activation.NONE,
    negative_slope: float = 0.0,
    behind: Behind = None,
    beside: torch.Tensor | None = None,
    end: End | None = None,
) -> torch.Tensor:
    """Big [N, C_in, H, W] -> activation(small [N, C_out, h, w]); the last three as above, ``behind`` by channel or
    None."""
    more = None if beside is None else layout(beside)
    taken = 0 if behind is None else len(behind)
    plan = plans.down(layout(input), layout(weight), more, output_size, geometry, taken, end is not None)
    output = empty(plan.shape, input, plan.memory_format)
    if not plan.grid:
        return output
    act, later = fused_activation(input, activation, behind)
    with launch_device(input):
        if plan.columns:
            columns.conv2d_columns_kernel[plan.grid](
                input, weight, dense(bias), output, float(negative_slope), *plan.numbers,
                ACTIVATION=act, **plan.options,
            )  # fmt: skip
        else:
            split, bias_here = split_output(output, bias, plan.splits)
            kernels.conv2d_kernel[plan.grid](
                input, behind, beside_operand(beside), weight, bias_here, split, _told(end, plan, output),
                float(negative_slope), *plan.numbers, ACTIVATION=_within(act, plan, behind), **plan.options,
            )  # fmt: skip
            _finish(split, bias, output, behind, end, act, negative_slope, plan.splits)
    return activations.apply_(output, later, negative_slope)


def conv2d_weight(
    small: torch.Tensor,
    big: torch.Tensor,
    kernel_size: Pair,
    geometry: Geometry,
    activation: int = Activation.NONE,
    negative_slope: float = 0.0,
    small_behind: Behind = None,
    big_behind: Behind = None,
    sums: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Small [N, C_small, h, w] and big [N, C_big, H, W] -> ([C_small, C_big / groups, KH, KW], sums of the small
    image by channel where they are asked for and cost nothing). Tensors in ``small_behind`` and ``big_behind`` have the
    strides of these images; the activation is theirs."""
    behind = (small_behind is not None) + (big_behind is not None)
    plan, free = plans.weight(layout(small), layout(big), kernel_size, geometry, behind)
    output = empty(plan.shape, small, plan.memory_format)
    if not plan.grid:
        return output.zero_(), None
    partial, slope = None, float(negative_slope)
    with launch_device(small):
        split, _ = split_output(output, None, plan.splits)
        if plan.columns:
            if sums and free:
                shape = (plan.splits, small.shape[1], 1, 1)
                partial = empty(shape, small, torch.contiguous_format, accumulate_type(small.dtype))
            columns.conv2d_weight_columns_kernel[plan.grid](
                small, small_behind, big, big_behind, split, partial, slope, *plan.numbers,
                ACTIVATION=activation, **plan.options,
            )  # fmt: skip
        else:
            kernels.conv2d_weight_kernel[plan.grid](
                small, small_behind, big, big_behind, split, slope, *plan.numbers,
                ACTIVATION=activation, **plan.options,
            )  # fmt: skip
        add_splits(split, None, output, Activation.NONE, 0.0, plan.splits)
    return output, None if partial is None else partial.sum((0, 2, 3)).to(small.dtype)


def conv2d_act_backward(
    grad_output: torch.Tensor,
    output: torch.Tensor,
    input: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: bool,
    input_size: Pair,
    kernel_size: Pair,
    geometry: Geometry,
    activation: int,
    negative_slope: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of input, weight and bias of :func:`conv2d` with an activation, each empty unless the weight, the
    input or ``bias`` asks for it. The gradient before the activation is not stored, except for a bias gradient that
    the weight's kernel does not sum."""
    if grad_output.stride() != output.stride():
        grad_output = torch.empty_like(output).copy_(grad_output)
    if grad_output.stride() != output.stride():
        output = torch.empty_like(grad_output).copy_(output)
    grad_input, grad_weight, grad_bias = (grad_output.new_empty(0) for _ in range(3))
    behind = activation, negative_slope, (output,)
    sums = None
    if weight is not None:
        grad_input = conv_transpose2d(grad_output, weight, None, tuple(input_size), geometry, *behind)
    if input is not None:
        grad_weight, sums = conv2d_weight(grad_output, input, tuple(kernel_size), geometry, *behind, sums=bias)
    if bias and sums is None:
        before = activations.backward_by_output(grad_output, output, activation, negative_slope)
        sums = before.sum((0, 2, 3))
    return grad_input, grad_weight, grad_bias if sums is None else sums


def _finish(
    split: torch.Tensor,
    bias: torch.Tensor | None,
    output: torch.Tensor,
    behind: Behind,
    end: End | None,
    act: int,
    negative_slope: float,
    splits: int,
) -> None:
    """Add up the splits, if there are any."""
    if end is not None and splits > 1:
        close_splits(split, bias, output, end, act, negative_slope, splits)
    else:
        add_splits(split, bias, output, act if behind is None else Activation.NONE, negative_slope, splits)


def _told(end: End | None, plan: plans.Plan, output: torch.Tensor) -> tuple[torch.Tensor, ...] | None:
    """What the kernel tells; of sums that are split the one that adds them up does."""
    return end.told(plan.tiles, output) if end is not None and plan.splits == 1 else None


def _within(act: int, plan: plans.Plan, behind: Behind) -> int:
    """The activation that the kernel applies."""
    return act if plan.splits == 1 or behind is not None else Activation.NONE
