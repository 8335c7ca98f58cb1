"""What a case of the verification is: tensors, torch's function and fastgan's.

A case draws its tensors in float64; the runner rounds them to the dtype and lays them out in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastgan import functional

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One shape of one op.

    Attributes:
        op: the op's name in :mod:`fastgan.functional`.
        name: the shape, for people.
        draw: float64 tensors by name, from a generator on the CPU.
        run_torch: the result by torch's functions, at any dtype.
        run_fastgan: the same by fastgan's.
        wide: names of tensors that stay float32 when the dtype has 16 bits, as under autocast.
        differentiate: names of the tensors whose gradients are compared.
        corner: what goes into the activation; the gradient is 0 where that is about 0, because there a rounding error
            decides the slope.
        small: small enough for Triton's interpreter.
        quick: belongs to ``--quick``.
    """

    op: str
    name: str
    draw: Callable[[torch.Generator], Tensors]
    run_torch: Callable[..., Tensor]
    run_fastgan: Callable[..., Tensor]
    wide: tuple[str, ...] = ()
    differentiate: tuple[str, ...] = ("input",)
    corner: Callable[..., Tensor] | None = None
    small: bool = False
    quick: bool = False


def conv_case(op: str, name: str, shapes: tuple[tuple[int, ...], tuple[int, ...]], **options: Any) -> Case:
    """``shapes``: input and weight. Options: those of the function, and bias, small, quick."""
    small, quick, bias = (
        options.pop(key, default) for key, default in (("small", False), ("quick", False), ("bias", True))
    )
    input_shape, weight_shape = shapes
    transposed = op == "conv_transpose2d"
    channels = weight_shape[1] * options.get("groups", 1) if transposed else weight_shape[0]
    fan_in = weight_shape[2] * weight_shape[3] * (input_shape[1] if transposed else weight_shape[1])

    def draw(generator: torch.Generator) -> Tensors:
        tensors = {
            "input": torch.randn(input_shape, generator=generator, dtype=torch.float64),
            "weight": torch.randn(weight_shape, generator=generator, dtype=torch.float64) * fan_in**-0.5,
        }
        if bias:
            tensors["bias"] = torch.randn(channels, generator=generator, dtype=torch.float64)
        return tensors

    def run_torch(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return (_torch_transposed if transposed else _torch_strided)(input, weight, bias, **options)

    def run_fastgan(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return getattr(functional, op)(input, weight, bias, **options)

    names = ("input", "weight", "bias") if bias else ("input", "weight")
    return Case(op, name, draw, run_torch, run_fastgan, differentiate=names, small=small, quick=quick)


def _torch_transposed(input: Tensor, weight: Tensor, bias: Tensor | None, **options: Any) -> Tensor:
    if options.get("padding") != "same":
        return F.conv_transpose2d(input, weight, bias, **options)
    # TensorFlow's: the full result cropped to input * stride, a tail that no tap reaches is the bias
    stride, kernel = options["stride"], weight.shape[2]
    full = F.conv_transpose2d(input, weight, None, stride=stride)
    before, size = max(kernel - stride, 0) // 2, [n * stride for n in input.shape[2:]]
    full = F.pad(full, (0, max(size[1] - full.shape[3], 0), 0, max(size[0] - full.shape[2], 0)))
    full = full[:, :, before : before + size[0], before : before + size[1]]
    return full if bias is None else full + bias.view(-1, 1, 1)


def _torch_strided(input: Tensor, weight: Tensor, bias: Tensor | None, **options: Any) -> Tensor:
    if options.get("padding") == "same":
        stride, kernel = options["stride"], weight.shape[2]
        total = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in input.shape[2:]]
        options = {"stride": stride}
        input = F.pad(input, (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2))
    return F.conv2d(input, weight, bias, **options)


def norm_case(
    name: str, shape: tuple[int, ...], activation: str, *, training: bool = True, mean: float = 0.0, **flags: Any
) -> Case:
    channels, slope = shape[1], 0.2

    def draw(generator: torch.Generator) -> Tensors:
        def normal(*size: int) -> Tensor:
            return torch.randn(size, generator=generator, dtype=torch.float64)

        return {
            "input": normal(*shape) * 1.5 + mean,
            "weight": 1 + 0.2 * normal(channels),
            "bias": 0.2 * normal(channels),
            "running_mean": mean + normal(channels),
            "running_var": 1 + normal(channels).abs(),
        }

    def normalise(
        input: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
    ) -> Tensor:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, 0.1, 1e-5)

    def run_torch(**tensors: Tensor) -> Tensor:
        output = normalise(**tensors)
        return {"relu": F.relu, "leaky_relu": lambda x: F.leaky_relu(x, slope), "none": lambda x: x}[activation](output)

    def run_fastgan(
        input: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
    ) -> Tensor:
        return functional.batch_norm_act(
            input, running_mean, running_var, weight, bias, training, 0.1, 1e-5, activation, slope
        )

    return Case(
        "batch_norm_act",
        name,
        draw,
        run_torch,
        run_fastgan,
        wide=("weight", "bias", "running_mean", "running_var"),
        differentiate=("input", "weight", "bias"),
        corner=None if activation == "none" else normalise,
        **flags,
    )


def loss_case(
    name: str,
    shape: tuple[int, ...],
    *,
    target: float | None = None,
    scale: float = 3.0,
    reduction: str = "mean",
    weighted: bool = False,
    **flags: Any,
) -> Case:
    """``target`` None draws a tensor of probabilities."""

    def draw(generator: torch.Generator) -> Tensors:
        tensors = {"input": scale * torch.randn(shape, generator=generator, dtype=torch.float64)}
        if target is None:
            tensors["target"] = torch.rand(shape, generator=generator, dtype=torch.float64)
        if weighted:
            tensors["weight"] = torch.rand(shape, generator=generator, dtype=torch.float64)
            tensors["pos_weight"] = 0.5 + torch.rand(shape[-1], generator=generator, dtype=torch.float64)
        return tensors

    def run_torch(input: Tensor, **tensors: Any) -> Tensor:
        labels = tensors.pop("target") if target is None else torch.full_like(input, target, requires_grad=False)
        return F.binary_cross_entropy_with_logits(input, labels, reduction=reduction, **tensors)

    def run_fastgan(input: Tensor, **tensors: Any) -> Tensor:
        labels = tensors.pop("target") if target is None else target
        return functional.binary_cross_entropy_with_logits(input, labels, reduction=reduction, **tensors)

    return Case("binary_cross_entropy_with_logits", name, draw, run_torch, run_fastgan, **flags)


def discriminator_case(
    name: str, real: tuple[int, ...], fake: tuple[int, ...], *, smoothing: float = 0.0, scale: float = 3.0, **flags: Any
) -> Case:
    """``real``, ``fake``: shapes of the logits."""

    def draw(generator: torch.Generator) -> Tensors:
        shapes = {"real_logits": real, "fake_logits": fake}
        return {
            key: scale * torch.randn(shape, generator=generator, dtype=torch.float64) for key, shape in shapes.items()
        }

    def run_torch(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        target = torch.full_like(real_logits, 1 - smoothing, requires_grad=False)
        loss = F.binary_cross_entropy_with_logits(real_logits, target)
        return loss + F.binary_cross_entropy_with_logits(fake_logits, torch.zeros_like(fake_logits))

    def run_fastgan(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return functional.discriminator_loss(real_logits, fake_logits, smoothing)

    differentiate = ("real_logits", "fake_logits")
    return Case("discriminator_loss", name, draw, run_torch, run_fastgan, differentiate=differentiate, **flags)
