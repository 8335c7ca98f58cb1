"""The networks of fastgan.models with torch's own layers, weights included: the other side of a training step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastgan.nn
from fastgan.training.step import Players, frozen, gradient_norms


class FirstSequential(nn.Sequential):
    """A Sequential with FusedSequential's arguments."""

    def forward(self, input: Tensor, first: nn.Module | None = None, beside: Tensor | None = None) -> Tensor:
        x = input if first is None else first(input)
        return super().forward(x if beside is None else torch.cat((x, beside), 1))


class SameConv2d(nn.Conv2d):
    """TensorFlow's "same" for a strided convolution, which torch refuses to build."""

    def forward(self, input: Tensor) -> Tensor:
        return same_conv2d(input, self.weight, self.bias, self.stride[0])


def same_conv2d(input: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> Tensor:
    """torch's fastest way to it: its own padding where that is symmetric, F.pad where not."""
    totals = [
        max((-(-size // stride) - 1) * stride + kernel - size, 0)
        for size, kernel in zip(input.shape[2:], weight.shape[2:], strict=True)
    ]
    if all(total % 2 == 0 for total in totals):
        return F.conv2d(input, weight, bias, stride, [total // 2 for total in totals])
    margins = [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    return F.conv2d(F.pad(input, margins), weight, bias, stride)


def plain(network: nn.Module) -> nn.Module:
    """A copy of ``network`` in which torch computes every layer.

    Raises:
        TypeError: a layer of fastgan that has no translation here.
    """
    copied = copy.deepcopy(network)
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            if type(child).__module__.startswith("fastgan.nn"):
                setattr(parent, name, _plain_layer(child))
    return copied


def _plain_layer(layer: Any) -> nn.Module:
    if type(layer) is fastgan.nn.BatchNormAct2d:
        norm = copy.copy(layer)
        norm.__class__ = nn.BatchNorm2d
        return nn.Sequential(norm, _plain_activation(layer))
    if type(layer) is fastgan.nn.ConvTranspose2d and not isinstance(layer.padding, str):
        layer.__class__ = nn.ConvTranspose2d
    elif type(layer) is fastgan.nn.FusedSequential:
        layer.__class__ = FirstSequential
    elif type(layer) is fastgan.nn.Conv2d:
        strided_same = layer.padding == "same" and layer.stride != (1, 1)
        layer.__class__ = SameConv2d if strided_same else nn.Conv2d
    else:
        raise TypeError(f"no translation for {layer}")
    has_none = getattr(layer, "activation", "none") == "none"  # of the class, where it is not in the instance
    return layer if has_none else nn.Sequential(layer, _plain_activation(layer))


def _plain_activation(layer: Any) -> nn.Module:
    if layer.activation == "relu":
        return nn.ReLU(inplace=True)
    if layer.activation == "leaky_relu":
        return nn.LeakyReLU(layer.negative_slope, inplace=True)
    if layer.activation == "tanh":
        return nn.Tanh()
    raise TypeError(f"no translation for activation {layer.activation!r}")


def torch_train_step(real: Tensor, z: Tensor, labels: Tensor | None) -> Callable[[Players], Tensor]:
    """:func:`fastgan.training.step.train_step` with torch's loss against labels that are made once."""
    ones, zeros = real.new_ones(len(real)), real.new_zeros(len(real))
    loss_of = nn.BCEWithLogitsLoss()
    condition = () if labels is None else (labels,)

    def step(players: Players) -> Tensor:
        fake = players.generator(z, *condition)
        real_logits = players.discriminator(real, *condition)
        fake_logits = players.discriminator(fake.detach(), *condition)
        d_loss = loss_of(real_logits, ones) + loss_of(fake_logits, zeros)
        players.d_optimizer.zero_grad()
        d_loss.backward()
        norms = gradient_norms(players.discriminator)
        players.d_optimizer.step()
        d_real, d_fake = real_logits.detach().sigmoid().mean(), fake_logits.detach().sigmoid().mean()
        with frozen(players.discriminator):
            g_loss = loss_of(players.discriminator(fake, *condition), ones)
            players.g_optimizer.zero_grad()
            g_loss.backward()
        norms += gradient_norms(players.generator)
        players.g_optimizer.step()
        return torch.stack([d_loss.detach(), g_loss.detach(), d_real, d_fake, *norms])

    return step
