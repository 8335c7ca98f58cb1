"""Batch norm + activation in plain torch, cut at its reductions.

Everything is computed as ``(x - mean) * rstd * weight + bias``: folding the mean into the bias, as torch's kernel does,
loses more when the mean is large (float32, mean 1e4, std 0.1: error 4.7e-3 against 7.0e-3; what is left is the rounding
of the mean itself, which the Triton kernels carry in two parts).
"""

from __future__ import annotations

import torch

from fastgan.ops.common import activation as act
from fastgan.ops.common.dtypes import accumulate_type
from fastgan.ops.common.statistics import channels, stats


def _normalise(
    input: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
) -> torch.Tensor:
    """Batch norm's output before the activation, a fresh tensor of the accumulate type."""
    centred = input - channels(mean, input)
    scale = channels(rstd if weight is None else rstd * weight, input)
    if bias is None:
        return centred.mul_(scale)
    return torch.addcmul(channels(bias.to(centred.dtype), input), centred, scale, out=centred)


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
    grad, wide = _before_activation(grad_output, input, weight, bias, mean, rstd, activation, negative_slope)
    if training and input.numel():
        # torch's kernel computes the training formula in two passes; the statistics it is given are the batch's
        scale = None if weight is None else weight.to(dtype)
        grad_input, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, wide, scale, None, None, mean, rstd, True, 0.0, [True, True, True]
        )
    else:
        grad_weight, grad_bias = _sums(grad, wide, mean, rstd)
        grad_weight, grad_bias = grad_weight.to(dtype), grad_bias.to(dtype)
        grad_input = grad * channels(rstd if weight is None else rstd * weight, input)
    return _like(input, grad_input), grad_weight, grad_bias


def _before_activation(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    activation: int,
    negative_slope: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(gradient before the activation, input), both in the accumulate type."""
    dtype = accumulate_type(input.dtype)
    grad, wide = grad_output.to(dtype), input.to(dtype)
    if activation != act.Activation.NONE:
        grad = act.backward(grad, _normalise(wide, mean, rstd, weight, bias), activation, negative_slope)
    return grad, wide


def _sums(
    grad: torch.Tensor, wide: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(grad_weight, grad_bias) in float64, as torch's kernel adds on a CPU: float32 sums of a few dozen values can lose
    ten times as much."""
    dims = [d for d in range(wide.dim()) if d != 1]
    centred = wide - channels(mean, wide)
    grad_bias, grad_weight = (terms.sum(dims, dtype=torch.float64) for terms in (grad, grad * centred))
    return grad_weight * rstd, grad_bias


def local_stats(input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, biased variance) per channel in float64, zeros for an empty batch: what a rank of a synchronised batch
    norm tells the others."""
    if input.numel() == 0:
        vector = input.new_zeros(input.shape[1], dtype=torch.float64)
        return vector, vector.clone()
    dims = [d for d in range(input.dim()) if d != 1]
    wide = input.to(accumulate_type(input.dtype))
    mean = wide.mean(dims)
    centred = wide - channels(mean, wide)
    # what rounding took from the mean: it is all that is subtracted from the mean square
    rest = centred.mean(dims, dtype=torch.float64)
    var = centred.square().mean(dims, dtype=torch.float64) - rest.square()
    return mean + rest, var.clamp_(min=0)  # rounding may leave a tiny negative; NaN stays


def chained_stats(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    momentum: float,
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(mean, rstd) of the batch; the running statistics are updated in place."""
    return stats(input.to(accumulate_type(input.dtype)), running_mean, running_var, momentum, eps)


def backward_reduce(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    activation: int,
    negative_slope: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(grad_weight, grad_bias) of this batch by given statistics, in float64."""
    grad, wide = _before_activation(grad_output, input, weight, bias, mean, rstd, activation, negative_slope)
    return _sums(grad, wide, mean, rstd)


def backward_apply(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    per_centred: torch.Tensor,
    per_element: torch.Tensor,
    activation: int,
    negative_slope: float,
) -> torch.Tensor:
    """grad_input = rstd * weight * (g - per_element - (x - mean) * per_centred)."""
    grad, wide = _before_activation(grad_output, input, weight, bias, mean, rstd, activation, negative_slope)
    centred = wide - channels(mean, input)
    grad = grad - channels(per_element.to(grad.dtype), input)
    grad = torch.addcmul(grad, centred, channels(per_centred.to(grad.dtype), input), value=-1, out=grad)
    return _like(input, grad.mul_(channels(rstd if weight is None else rstd * weight, input)))
