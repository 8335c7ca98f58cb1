"""Batch norm + activation in plain torch, cut at its reductions, and the differentiable form that serves double
backward.

Everything is computed as ``(x - mean) * rstd * weight + bias``: subtracting first keeps what folding the mean into the
bias loses when the mean is large (torch's own kernel folds it).
"""

from __future__ import annotations

import torch

from fastgan.ops.common import activation as act
from fastgan.ops.common.dtypes import accumulate_type, is_half


def _channels(vector: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A per-channel vector [C] in a shape that broadcasts over [N, C, ...]."""
    return vector.view(1, -1, *(1,) * (like.dim() - 2))


def stats(input: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(mean, biased variance, rstd) per channel in the accumulate type."""
    mean, var = torch.ops.aten.batch_norm_update_stats(input, None, None, 0.0)
    return mean, var, torch.rsqrt(var + eps)


def update_running(
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    mean: torch.Tensor,
    var: torch.Tensor,
    count: int,
    momentum: float,
) -> None:
    """``running = (1 - momentum) * running + momentum * batch`` in place, the variance unbiased."""
    if running_mean is not None:
        running_mean.copy_((1 - momentum) * running_mean + momentum * mean)
    if running_var is not None:
        unbiased = var * (count / (count - 1))
        running_var.copy_((1 - momentum) * running_var + momentum * unbiased)


def _normalise(
    input: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Batch norm's output before the activation, a fresh tensor of the accumulate type."""
    centred = input - _channels(mean, input)
    scale = _channels(rstd if weight is None else rstd * weight, input)
    if bias is None:
        return centred.mul_(scale)
    return torch.addcmul(_channels(bias.to(centred.dtype), input), centred, scale, out=centred)


def train(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    momentum: float,
    eps: float,
    activation: int,
    negative_slope: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(output, mean, rstd) by batch statistics; the running ones are updated in place."""
    count = input.numel() // max(input.shape[1], 1)
    if count == 0:
        dtype = accumulate_type(input.dtype)
        vector = input.new_zeros(input.shape[1], dtype=dtype)
        return torch.empty_like(input), vector, torch.full_like(vector, eps**-0.5 if eps > 0 else float("inf"))
    wide = input.to(accumulate_type(input.dtype))
    mean, var, rstd = stats(wide, eps)
    update_running(running_mean, running_var, mean, var, count, momentum)
    return _finish(wide, input, mean, rstd, weight, bias, activation, negative_slope), mean, rstd


def eval(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    activation: int,
    negative_slope: float,
) -> torch.Tensor:
    """Output by given statistics."""
    wide = input.to(accumulate_type(input.dtype))
    return _finish(wide, input, mean, rstd, weight, bias, activation, negative_slope)


def _finish(
    wide: torch.Tensor,
    input: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    activation: int,
    negative_slope: float,
) -> torch.Tensor:
    output = act.apply_(_normalise(wide, mean, rstd, weight, bias), activation, negative_slope)
    return torch.empty_like(input).copy_(output) if is_half(input.dtype) else match_layout(output, input)


def match_layout(output: torch.Tensor, input: torch.Tensor) -> torch.Tensor:
    """``output`` with the strides of ``torch.empty_like(input)``, the layout that torch's batch norm gives."""
    expected = torch.empty_like(input, device="meta").stride()
    return output if output.stride() == expected else torch.empty_like(input).copy_(output)


def backward(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    training: bool,
    activation: int,
    negative_slope: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(grad_input, grad_weight, grad_bias); the last two in the accumulate type.

    With g the gradient before the activation and xhat = (x - mean) * rstd:
    grad_bias = sum g, grad_weight = sum g * xhat, and grad_input = weight * rstd * g in eval mode,
    weight * rstd * (g - grad_bias / M - xhat * grad_weight / M) in training (Ioffe & Szegedy 2015, section 3).
    """
    dtype = accumulate_type(input.dtype)
    dims = [d for d in range(input.dim()) if d != 1]
    grad, wide = grad_output.to(dtype), input.to(dtype)
    if activation != act.Activation.NONE:
        grad = act.backward(grad, _normalise(wide, mean, rstd, weight, bias), activation, negative_slope)
    xhat = (wide - _channels(mean, input)).mul_(_channels(rstd, input))
    grad_bias = grad.sum(dims)
    grad_weight = (grad * xhat).sum(dims)
    scale = rstd if weight is None else rstd * weight
    if training:
        count = max(input.numel() // max(input.shape[1], 1), 1)
        grad = grad - xhat.mul_(_channels(grad_weight / count, input)).add_(_channels(grad_bias / count, input))
        grad_input = grad.mul_(_channels(scale, input))
    else:
        grad_input = grad * _channels(scale, input)
    return torch.empty_like(input).copy_(grad_input), grad_weight, grad_bias


def differentiable(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    statistics: tuple[torch.Tensor, torch.Tensor] | None,
    eps: float,
    activation: int,
    negative_slope: float,
) -> torch.Tensor:
    """Forward as differentiable torch ops, in the accumulate type; ``statistics`` None means batch statistics."""
    wide = input.to(accumulate_type(input.dtype))
    if statistics is None:
        dims = [d for d in range(input.dim()) if d != 1]
        mean = wide.mean(dims, keepdim=True)
        centred = wide - mean
        rstd = torch.rsqrt(centred.square().mean(dims, keepdim=True) + eps)
    else:
        mean, rstd = (_channels(vector, input) for vector in statistics)
        centred = wide - mean
    output = centred * rstd
    if weight is not None:
        output = output * _channels(weight, input)
    if bias is not None:
        output = output + _channels(bias, input)
    return act.apply(output, activation, negative_slope).to(input.dtype)
