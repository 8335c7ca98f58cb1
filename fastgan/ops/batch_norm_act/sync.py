"""Batch norm + activation by the statistics of all ranks of a process group: one collective forward, one backward.

Ranks exchange (count, mean, variance) in float64, and every rank merges them in rank order, so that all have the same
bits. Gradient order: first order by the ops of the slice; under ``create_graph`` backward is built from differentiable
torch ops with a differentiable all_reduce between them, so that every rank must run the same backward passes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist

from fastgan.dispatch import call
from fastgan.ops.common import activation as act
from fastgan.ops.common import forward_mode
from fastgan.ops.common.dtypes import accumulate_type


def world(process_group: Any) -> Any:
    """The group to synchronise over (None means all ranks), or None where there is nobody to synchronise with."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    group = dist.group.WORLD if process_group is None else process_group
    return group if dist.get_world_size(group) > 1 else None


class SyncBatchNormActTrain(torch.autograd.Function):
    """(input, weight, bias, running_mean, running_var, momentum, eps, activation, negative_slope, group) ->
    (output, mean, rstd, total), by the statistics of the group, ``total`` values per channel; only output is
    differentiable."""

    @staticmethod
    def forward(
        input: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        momentum: float,
        eps: float,
        activation: int,
        negative_slope: float,
        group: Any,
    ) -> tuple[torch.Tensor, ...]:
        total, mean, var = _merge(*_gather(input, group))
        # Read on the host only where the group may hold less than two values: two here settle it without waiting.
        values = int(total) if _count(input) <= 1 else 2
        if values == 1:
            raise ValueError(
                "Expected more than 1 value per channel when training, got one in the whole process group, "
                f"input size {input.shape}"
            )
        if running_mean is not None and running_var is not None and values:
            _update(running_mean, mean, momentum)
            _update(running_var, var * (total / (total - 1)), momentum)
        dtype = accumulate_type(input.dtype)
        exact, mean, rstd = mean, mean.to(dtype), torch.rsqrt(var + eps).to(dtype)
        # what rounding took from the mean, as a bias: (x - mean - low) * scale + bias
        low = ((mean - exact) * (rstd if weight is None else rstd * weight)).to(dtype)
        shift = low if bias is None else bias + low
        output = call("batch_norm_act_eval", input, weight, shift, mean, rstd, activation, negative_slope)
        return output, mean, rstd, total

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        input, weight, bias, _, _, _, ctx.eps, ctx.activation, ctx.negative_slope, ctx.group = inputs
        _, *statistics = output
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*statistics)
        ctx.save_for_backward(input, weight, bias, *statistics)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor | None, *_unused: Any) -> tuple[Any, ...]:
        if grad_output is None or not any(ctx.needs_input_grad[:3]):
            return (None,) * 10
        run = _differentiable_backward if forward_mode.differentiable_backward() else _backward
        return (*run(ctx, grad_output), *(None,) * 7)


def _count(input: torch.Tensor) -> int:
    """Values per channel."""
    return input.shape[0] * math.prod(input.shape[2:])


def _gather(input: torch.Tensor, group: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(count [R, 1], mean [R, C], variance [R, C]) of all ranks, in float64."""
    mean, var = call("batch_norm_act_stats", input)
    mine = torch.cat([mean.new_full((1,), _count(input)), mean, var])
    all_ranks = mine.new_empty(dist.get_world_size(group), mine.numel())
    dist.all_gather(list(all_ranks.unbind()), mine, group=group)
    count, mean, var = all_ranks.split([1, input.shape[1], input.shape[1]], dim=1)
    return count, mean, var


def _merge(count: torch.Tensor, mean: torch.Tensor, var: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(total, mean [C], variance [C]) of the union: Chan, Golub & LeVeque 1983, for any number of parts. Zeros if it is
    empty."""
    total = count.sum()
    share = count / total.clamp(min=1)
    centre = (mean * share).sum(0)
    return total, centre, ((var + (mean - centre).square()) * share).sum(0)


def _update(running: torch.Tensor, batch: torch.Tensor, momentum: float) -> None:
    running.copy_((1 - momentum) * running.double() + momentum * batch)


def _backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    input, weight, bias, mean, rstd, total = ctx.saved_tensors
    need_input, need_weight, need_bias = ctx.needs_input_grad[:3]
    rest = (ctx.activation, ctx.negative_slope)
    grad_weight, grad_bias = call("batch_norm_act_backward_reduce", grad_output, input, weight, bias, mean, rstd, *rest)
    grad_input = None
    if need_input:
        sums = torch.stack([grad_weight, grad_bias])
        dist.all_reduce(sums, group=ctx.group)
        per_centred, per_element = (sums / total).unbind()
        grad_input = call("batch_norm_act_backward_apply",
            grad_output, input, weight, bias, mean, rstd,
            (per_centred * rstd).to(mean.dtype), per_element.to(mean.dtype), *rest,
        )  # fmt: skip
    # the sums of this rank, as in torch's SyncBatchNorm: DistributedDataParallel adds up those of the others
    return (
        grad_input,
        grad_weight.to(weight.dtype) if need_weight else None,
        grad_bias.to(bias.dtype) if need_bias else None,
    )


class _AllReduce(torch.autograd.Function):
    """The sum over the group; its gradient is the sum over the group too."""

    @staticmethod
    def forward(tensor: torch.Tensor, group: Any) -> torch.Tensor:
        result = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(result, group=group)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _, ctx.group = inputs

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _AllReduce.apply(grad_output, ctx.group), None


def _differentiable_backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    input, weight, bias, mean, _, total = ctx.saved_tensors
    # Views cut the inner graph off from what lies before: weight may itself be a function of input.
    x = input.view_as(input)
    w, b = (None if tensor is None else tensor.view_as(tensor) for tensor in (weight, bias))
    output = act.apply(_differentiable(x, w, b, mean, total, ctx.eps, ctx.group), ctx.activation, ctx.negative_slope)
    output = output.to(input.dtype)
    wanted = [view for view, need in zip((x, w, b), ctx.needs_input_grad, strict=False) if need and view is not None]
    gradients = iter(torch.autograd.grad(output, wanted, grad_output, create_graph=True))
    return tuple(next(gradients) if need else None for need in ctx.needs_input_grad[:3])


def _differentiable(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    total: torch.Tensor,
    eps: float,
    group: Any,
) -> torch.Tensor:
    """The normalised value by the group's statistics as functions of this rank's input; ``mean`` is their mean.

    Relative to it the sums of x and x² lose nothing: what is subtracted has the size of its rounding error.
    """
    dims = [d for d in range(input.dim()) if d != 1]

    def channels(vector: torch.Tensor) -> torch.Tensor:
        return vector.view(1, -1, *(1,) * (input.dim() - 2))

    centred = input.to(mean.dtype) - channels(mean)
    sums = torch.stack([centred.sum(dims), centred.square().sum(dims)])
    shift, square = (_AllReduce.apply(sums, group) / total.to(mean.dtype)).unbind()
    output = (centred - channels(shift)) * channels(torch.rsqrt(square - shift.square() + eps))
    if weight is not None:
        output = output * channels(weight)
    return output if bias is None else output + channels(bias)
