"""The first derivatives of batch norm + activation in differentiable torch ops: what backward is made of under
``create_graph``, and forward mode.

With statistics None those of the batch are computed again, so that they are functions of the input.
"""

from __future__ import annotations

import torch

from fastgan.ops.common import activation as act
from fastgan.ops.common.dtypes import accumulate_type
from fastgan.ops.common.statistics import channels

Vector = torch.Tensor | None
Statistics = tuple[torch.Tensor, torch.Tensor] | None


def gradients(
    grad_output: torch.Tensor,
    input: torch.Tensor,
    weight: Vector,
    bias: Vector,
    statistics: Statistics,
    eps: float,
    activation: int,
    negative_slope: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(grad_input, grad_weight, grad_bias); the formulas of ``reference.backward``."""
    dims = _all_but_channels(input)
    xhat, rstd = _normalise(input, statistics, eps)
    grad = act.backward(grad_output.to(xhat.dtype), _affine(xhat, weight, bias), activation, negative_slope)
    grad_weight, grad_bias = (grad * xhat).sum(dims), grad.sum(dims)
    if statistics is None:
        grad = grad - grad.mean(dims, keepdim=True) - xhat * (grad * xhat).mean(dims, keepdim=True)
    grad = grad * rstd if weight is None else grad * (rstd * channels(weight, input))
    return grad.to(input.dtype), grad_weight, grad_bias


def tangent(
    input: torch.Tensor,
    weight: Vector,
    bias: Vector,
    statistics: Statistics,
    eps: float,
    activation: int,
    negative_slope: float,
    tangents: tuple[Vector, ...],
) -> torch.Tensor | None:
    """The directional derivative of the output by input, weight and bias, along their tangents (None means zero)."""
    dims = _all_but_channels(input)
    xhat, rstd = _normalise(input, statistics, eps)
    along_input, along_weight, along_bias = tangents
    terms = []
    if along_input is not None:
        moved = along_input.to(xhat.dtype)
        if statistics is None:
            moved = moved - moved.mean(dims, keepdim=True) - xhat * (moved * xhat).mean(dims, keepdim=True)
        terms.append(moved * rstd if weight is None else moved * (rstd * channels(weight, input)))
    if along_weight is not None:
        terms.append(xhat * channels(along_weight, input))
    if along_bias is not None:
        terms.append(channels(along_bias, input).to(xhat.dtype).expand_as(xhat))
    if not terms:
        return None
    total = sum(terms[1:], terms[0])
    return act.backward(total, _affine(xhat, weight, bias), activation, negative_slope).to(input.dtype)


def _all_but_channels(input: torch.Tensor) -> list[int]:
    return [dim for dim in range(input.dim()) if dim != 1]


def _normalise(input: torch.Tensor, statistics: Statistics, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(xhat, rstd), in the accumulate type."""
    wide = input.to(accumulate_type(input.dtype))
    if statistics is not None:
        mean, rstd = (channels(vector, input) for vector in statistics)
        return (wide - mean) * rstd, rstd
    dims = _all_but_channels(input)
    centred = wide - wide.mean(dims, keepdim=True)
    rstd = torch.rsqrt(centred.square().mean(dims, keepdim=True) + eps)
    return centred * rstd, rstd


def _affine(xhat: torch.Tensor, weight: Vector, bias: Vector) -> torch.Tensor:
    """The value before the activation."""
    output = xhat if weight is None else xhat * channels(weight, xhat)
    return output if bias is None else output + channels(bias, xhat)
