"""A link of a chain in plain torch: a convolution of a batch norm's and activation's output, which need not be stored,
and the batch statistics of what it gives, for the next batch norm.

The statistics are outputs like any other, with gradients of their own. Of a batch norm's backward (Ioffe & Szegedy
2015, section 3) the terms that hold for given statistics are then those of the link after it; the two that come through
the statistics are, by channel, ``grad_mean / M - (y - mean) * rstd^3 * grad_rstd / M`` (M values per channel): every
gradient before a batch norm is g + C + B * (y - mean), and nobody has to store it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from fastgan.ops.common import activation as act
from fastgan.ops.common.dtypes import accumulate_type
from fastgan.ops.common.statistics import channels, stats, through_statistics
from fastgan.ops.conv_transpose2d import reference
from fastgan.ops.conv_transpose2d.geometry import Geometry, Pair

_ROWS = (0, 2, 3)


class Norm(NamedTuple):
    """A batch norm by given statistics, and its activation: a vector by channel each, in any dtype; weight and bias may
    be None."""

    mean: torch.Tensor
    rstd: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    activation: int
    negative_slope: float

    def scale(self) -> torch.Tensor:
        return self.rstd if self.weight is None else self.rstd * self.weight

    def before_activation(self, input: torch.Tensor) -> torch.Tensor:
        """In the accumulate type."""
        output = (input.to(self.mean.dtype) - channels(self.mean, input)) * channels(self.scale(), input)
        return output if self.bias is None else output + channels(self.bias.to(output.dtype), input)

    def __call__(self, input: torch.Tensor) -> torch.Tensor:
        return act.apply(self.before_activation(input), self.activation, self.negative_slope).to(input.dtype)


class Output(NamedTuple):
    """What a link gave: the convolution's output and its statistics."""

    output: torch.Tensor
    mean: torch.Tensor
    rstd: torch.Tensor


#: (grad_input, grad_beside, grad_weight of the convolution, then those of the batch norm before it: mean, rstd, weight,
#: bias)
Gradients = tuple[torch.Tensor | None, ...]


def forward(
    convolution: Callable[..., torch.Tensor],
    input: torch.Tensor,
    norm: Norm | None,
    beside: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    running: tuple[torch.Tensor | None, torch.Tensor | None],
    output_size: Pair,
    geometry: Geometry,
    momentum: float,
    eps: float,
) -> Output:
    """The link; running statistics are updated in place."""
    output = convolution(_taken(input, norm, beside), weight, bias, output_size, geometry)
    return Output(output, *stats(output.to(accumulate_type(output.dtype)), *running, momentum, eps))


def _taken(input: torch.Tensor, norm: Norm | None, beside: torch.Tensor | None) -> torch.Tensor:
    """What the convolution takes."""
    taken = input if norm is None else norm(input)
    return taken if beside is None else torch.cat((taken, beside), 1)


def split_weight(weight: torch.Tensor, channels: int, transposed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight's parts for the input, which has so many channels, and for what is beside it."""
    first, rest = weight.tensor_split((channels,), 0 if transposed else 1)
    return first, rest


def gradient_before(
    grad_output: torch.Tensor, grad_mean: torch.Tensor, grad_rstd: torch.Tensor, result: Output
) -> torch.Tensor:
    """The whole gradient of the convolution's output, from those of the three outputs."""
    through = through_statistics(*result, grad_mean, grad_rstd)
    return (grad_output.to(through.dtype) + through).to(result.output.dtype)


def gradients(
    of_input: Callable[[torch.Tensor], torch.Tensor] | None,
    of_weight: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None,
    before: torch.Tensor,
    input: torch.Tensor,
    norm: Norm | None,
    beside: torch.Tensor | None,
) -> Gradients:
    """All gradients from that of the convolution's output; differentiable if the two maps are, which give those of what
    the convolution took and of its weight (None: not wanted)."""
    grad_weight = None if of_weight is None else of_weight(before, _taken(input, norm, beside))
    if of_input is None:
        return None, None, grad_weight, None, None, None, None
    taken, grad_beside = of_input(before), None
    if beside is not None:
        taken, grad_beside = taken.tensor_split((input.shape[1],), 1)
    if norm is None:
        return taken, grad_beside, grad_weight, None, None, None, None
    taken = taken.to(norm.mean.dtype)
    inner = act.backward(taken, norm.before_activation(input), norm.activation, norm.negative_slope)
    centred = input.to(norm.mean.dtype) - channels(norm.mean, input)
    # in float64, as batch norm's: float32 sums of a few dozen values can lose ten times as much
    along, total = (terms.sum(_ROWS, dtype=torch.float64) for terms in (inner * centred, inner))
    scale = norm.scale()
    grad_rstd = along if norm.weight is None else along * norm.weight
    vectors = (-scale * total, grad_rstd, along * norm.rstd, total)
    grad_input = (inner * channels(scale, input)).to(input.dtype)
    return grad_input, grad_beside, grad_weight, *(vector.to(norm.mean.dtype) for vector in vectors)


def maps(
    input: torch.Tensor, weight: torch.Tensor, geometry: Geometry, transposed: bool
) -> tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """The two maps by torch's own backward of the convolution."""
    sizes = tuple(input.shape[2:]), tuple(weight.shape[2:]), geometry, transposed
    back = reference.conv2d if transposed else reference.conv_transpose2d

    def of_input(before: torch.Tensor) -> torch.Tensor:
        found = reference.gradient(before, None, weight, *sizes, of_input=True)
        return back(before, weight, None, sizes[0], geometry) if found is None else found

    def of_weight(before: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
        found = reference.gradient(before, taken, None, *sizes, of_input=False)
        pair = (taken, before) if transposed else (before, taken)
        return reference.conv2d_weight(*pair, sizes[1], geometry) if found is None else found

    return of_input, of_weight
