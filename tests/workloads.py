"""Forward and backward of every function, and a training step of layers, on numbers that are the same in every process:
what must come out bit for bit, whenever and wherever it runs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import fastgan
from fastgan import functional
from tests.checks import set_seed
from tests.ops.cases import ACTIVATIONS, LAYOUTS, batch_norm_tensors, batch_norm_then, wide, with_gradients

#: Batch, channels and pixels per side: a few programs in Triton's interpreter; enough for torch to use its threads.
SMALL, LARGE = (2, 3, 4), (16, 32, 16)
Function = Callable[..., torch.Tensor]

#: name: (ours, torch's), both of (input, weight, bias).
CONVOLUTIONS: dict[str, tuple[Function, Function]] = {
    "conv_transpose2d": (
        lambda x, w, b: functional.conv_transpose2d(x, w, b, 2, 1),
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1),
    ),
    "conv2d": (lambda x, w, b: functional.conv2d(x, w, b, 2, 1), lambda x, w, b: F.conv2d(x, w, b, 2, 1)),
}
NORMS = [f"batch_norm_act {mode} {activation}" for mode in ("training", "eval") for activation in ACTIVATIONS]
LOSSES = ["loss mean", "loss sum", "loss none", "loss target", "loss pos_weight", "loss discriminator"]
NAMES = (*CONVOLUTIONS, *NORMS, *LOSSES)


def work(name: str, *args: Any, **options: Any) -> list[torch.Tensor]:
    """[output, gradients, running statistics] of one of :data:`NAMES`; the arguments are those of :func:`prepared`."""
    return prepared(name, *args, **options)()


def prepared(
    name: str,
    size: tuple[int, int, int] = SMALL,
    dtype: torch.dtype = torch.float32,
    layout: str = "nchw",
    device: torch.device | str = "cpu",
    ours: bool = True,
    judge: bool = False,
) -> Callable[[], list[torch.Tensor]]:
    """What computes [output, gradients, running statistics] of one of :data:`NAMES`, each time from copies of the same
    numbers; by torch unless ``ours``, in float64 for the ``judge`` (of the numbers rounded to ``dtype``)."""
    with torch.random.fork_rng(devices=[]):
        set_seed(7)
        function, tensors, buffers, grad = _prepare(name, size, ours)
    groups = [[t.to(dtype).to(device) for t in group] for group in (tensors, buffers, [grad])]
    if judge:
        groups = [wide(group) for group in groups]

    def run() -> list[torch.Tensor]:
        tensors, buffers, [grad] = (
            [LAYOUTS[layout](t.clone()) if t.dim() == 4 else t.clone() for t in group] for group in groups
        )
        results = with_gradients(lambda *leaves: function(*leaves, *buffers), tensors, grad if grad.dim() else None)
        return [*results, *buffers]

    return run


def torchs_discriminator_loss(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Two of torch's losses."""
    loss = F.binary_cross_entropy_with_logits
    return loss(real, torch.ones_like(real)) + loss(fake, torch.zeros_like(fake))


def _prepare(
    name: str, size: tuple[int, int, int], ours: bool
) -> tuple[Function, list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """(function of tensors and buffers, tensors, buffers, grad_output; 0-d for a 0-d output)."""
    batch, channels, pixels = size
    shape = (batch, channels, pixels, pixels)
    if name in CONVOLUTIONS:
        tensors = [torch.randn(shape), torch.randn(channels, channels, 4, 4), torch.randn(channels)]
        side = 2 * pixels if name == "conv_transpose2d" else pixels // 2
        return CONVOLUTIONS[name][not ours], tensors, [], torch.randn(batch, channels, side, side)
    if name in NORMS:
        _, mode, activation = name.split()
        *tensors, seed = batch_norm_tensors(shape)
        function = functional.batch_norm_act if ours else batch_norm_then(activation)
        extra = {"activation": activation, "negative_slope": 0.2} if ours else {}
        return (
            lambda x, w, b, mean, var: function(x, mean, var, w, b, mode == "training", 0.1, 1e-5, **extra),
            tensors,
            [torch.randn(channels) / 8 + 1, torch.rand(channels) + 0.5],
            seed,
        )
    kind = name.split()[1]
    if kind == "discriminator":
        both = [torch.randn(shape) * 3, torch.randn(shape[0] + 1, *shape[1:]) * 3]
        return functional.discriminator_loss if ours else torchs_discriminator_loss, both, [], torch.tensor(1.0)
    loss = (functional if ours else F).binary_cross_entropy_with_logits
    logits, target, positive = torch.randn(shape) * 3, torch.rand(shape), torch.rand(pixels) + 0.5
    if kind == "target":
        return loss, [logits, target], [], torch.tensor(1.0)
    if kind == "pos_weight":
        return lambda x, t, p: loss(x, t, pos_weight=p), [logits], [target, positive], torch.tensor(1.0)
    seed = torch.randn(shape) if kind == "none" else torch.tensor(1.0)
    return lambda x, t: loss(x, t, reduction=kind), [logits], [target], seed


class Networks(nn.Module):
    """A generator and a discriminator of every layer that there is; ``forward`` is a step's two losses."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        layers = fastgan.nn
        self.generator = nn.Sequential(
            layers.ConvTranspose2d(channels, channels, 4, bias=False),
            layers.BatchNormAct2d(channels),
            layers.ConvTranspose2d(channels, 1, 4, 2, 1),
            nn.Tanh(),
        )
        self.discriminator = nn.Sequential(
            layers.Conv2d(1, channels, 4, 2, 1, bias=False),
            layers.BatchNormAct2d(channels, activation="leaky_relu", negative_slope=0.2),
            layers.Conv2d(channels, channels, 4),
            layers.BatchNormAct2d(channels, activation="none"),
            nn.Flatten(),
        )
        self.loss = layers.BCEWithLogitsLoss()

    def forward(self, z: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """z [N, channels, 1, 1], real [N, 1, 8, 8] -> the losses' sum."""
        fake = self.generator(z)
        judged = self.discriminator(fake), self.discriminator(real)
        return self.loss(judged[0], 0.0) + self.loss(judged[1], torch.full_like(judged[1], 0.9))


def networks(device: torch.device | str = "cpu") -> Networks:
    """The networks with the same weights in every process."""
    with torch.random.fork_rng(devices=[]):
        set_seed(3)
        return Networks().to(device)


def step(model: Networks, repeat: int = 0) -> list[torch.Tensor]:
    """[loss, gradients of all parameters] of one training step; ``repeat`` picks the batch."""
    generator = torch.Generator().manual_seed(repeat)
    device = next(model.parameters()).device
    z = torch.randn(4, 3, 1, 1, generator=generator).to(device)
    loss = model(z, torch.randn(4, 1, 8, 8, generator=generator).to(device))
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


def digest(tensors: Sequence[Any]) -> str:
    """SHA-256 of the bits of tensors, the NaNs' too."""
    sha = hashlib.sha256()
    for tensor in tensors:
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()
