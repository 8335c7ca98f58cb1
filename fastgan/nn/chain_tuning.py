"""Whether layers of a :class:`fastgan.nn.FusedSequential` run as a chain where :func:`fastgan.autotune` has measured
them, or measures them now: as a chain and one by one, forward and backward, on copies with buffers of their own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from fastgan.functional import chain_rules
from fastgan.nn.norm import BatchNormAct2d

Images = tuple[torch.Tensor, torch.Tensor | None]
#: (layers, whether they run as a chain) -> what runs them on an input and the channels beside it.
Build = Callable[[Sequence[nn.Module], bool], Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]]


def faster(layers: Sequence[Any], images: Images, build: Build) -> bool:
    """Whether the layers, convolutions and batch norms, run faster as a chain; where that is not known and cannot be
    measured now they do not."""
    parameters = tuple(parameter for layer in layers for parameter in layer._parameters.values())
    grad = torch.is_grad_enabled()  # asked here: it is off where things are timed

    def runs() -> dict[str, Callable[[], None]]:
        return {
            "triton": _Timed(layers, images, build, True, grad),
            "reference": _Timed(layers, images, build, False, grad),
        }

    return chain_rules.is_faster(tuple(map(_kind, layers)), images, parameters, runs)


def _kind(layer: Any) -> tuple[Any, ...]:
    """Of a layer what its time depends on, beside its parameters."""
    kind = type(layer).__name__
    if isinstance(layer, BatchNormAct2d):
        return kind, layer.activation, layer.running_mean is None
    return kind, layer.stride, layer.padding, layer.output_padding, layer.dilation, layer.groups


class _Timed:
    """The layers' output and, where gradients are wanted, all gradients."""

    def __init__(self, layers: Sequence[nn.Module], images: Images, build: Build, chained: bool, grad: bool) -> None:
        layers = [_copied(layer) for layer in layers]
        input, beside = images
        self.input, self.beside = _leaf(input), None if beside is None else _leaf(beside)
        self.run, self.grad = build(layers, chained), grad
        parameters = [parameter for layer in layers for parameter in layer.parameters()]
        tensors = (self.input, self.beside, *parameters)
        self.wanted = [tensor for tensor in tensors if tensor is not None and tensor.requires_grad]
        self.of_output: torch.Tensor | None = None

    def __call__(self) -> None:
        with torch.set_grad_enabled(self.grad):
            output = self.run(self.input, self.beside)
        if output.requires_grad:
            if self.of_output is None:
                self.of_output = torch.ones_like(output)
            torch.autograd.grad(output, self.wanted, self.of_output)


def _leaf(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _copied(layer: nn.Module) -> nn.Module:
    """A layer with the same values as parameters, and buffers of its own."""
    copied = copy.copy(layer)
    parameters = {
        name: None if parameter is None else nn.Parameter(parameter.detach(), parameter.requires_grad)
        for name, parameter in layer._parameters.items()
    }
    buffers = {name: None if buffer is None else buffer.clone() for name, buffer in layer._buffers.items()}
    copied.__dict__.update(_parameters=parameters, _buffers=buffers)
    return copied
