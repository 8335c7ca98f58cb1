"""Batch norm + activation in plain torch, cut at its reductions, and the differentiable form that serves double
backward.

Everything is computed as ``(x - mean) * rstd * weight + bias``: folding the mean into the bias, as torch's kernel does,
loses more when the mean is large (float32, mean 1e4, std 0.1: error 4.7e-3 against 7.0e-3; what is left is the rounding
of the mean itself, which the Triton kernels carry in two parts).
"""

from __future__ import annotations

import torch

from fastgan.ops.common import activation as act
from fastgan.ops.common.dtypes import accumulate_type


def _channels(vector: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A per-channel vector [C] in a shape that broadcasts over [N, C, ...]."""
    return vector.view(1, -1, *(1,) * (like.dim() - 2))


def stats(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, rstd) per channel of a float32 or float64 tensor; the running statistics are updated in place:
    ``running = (1 - momentum) * running + momentum * batch``, the variance unbiased."""
    if running_mean is not None and running_mean.dtype == input.dtype:
        mean, var = torch.ops.aten.batch_norm_update_stats(input, running_mean, running_var, momentum)
    else:
        mean, var = torch.ops.aten.batch_norm_update_stats(input, None, None, 0.0)
        if running_mean is not None and running_var is not None:  # 16-bit buffers
            count = input.numel() // input.shape[1]
            running_mean.copy_((1 - momentum) * running_mean + momentum * mean)
            running_var.copy_((1 - momentum) * running_var + momentum * (var * (count / (count - 1))))
    return mean, torch.rsqrt(var + eps)


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
    mean, rstd = stats(wide, running_mean, running_var, momentum, eps)
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
    return _like(input, output)


def _like(input: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """``result`` in the dtype and layout of ``torch.empty_like(input)``, which are those of torch's batch norm."""
    # a fresh result with the input's strides proves that these are dense, and empty_like keeps dense strides
    same = result.dtype == input.dtype and result.stride() == input.stride()
    return result if same else torch.empty_like(input).copy_(result)


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
    if training and input.numel():
        # torch's kernel computes the training formula in two passes; the statistics it is given are the batch's
        scale = None if weight is None else weight.to(dtype)
        grad_input, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, wide, scale, None, None, mean, rstd, True, 0.0, [True, True, True]
        )
    else:
        centred = wide - _channels(mean, input)
        # in float64, as torch's kernel adds on a CPU: float32 sums of a few dozen values can lose ten times as much
        grad_bias, grad_weight = (terms.sum(dims, dtype=torch.float64) for terms in (grad, grad * centred))
        grad_bias, grad_weight = grad_bias.to(dtype), (grad_weight * rstd).to(dtype)
        grad_input = grad * _channels(rstd if weight is None else rstd * weight, input)
    return _like(input, grad_input), grad_weight, grad_bias


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
