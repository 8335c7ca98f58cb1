"""Cases of single ops: the convolutions, batch norm with its activation, the loss."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.case import Call, Case, Results, Setting, Work
from bench.networks import same_conv2d
from fastgan import functional

FORWARD, RECORDED, BOTH = "forward", "forward, recorded", "forward+backward"
USUAL = (FORWARD, BOTH)


def _work(
    tensors: Results,
    wanted: tuple[str, ...],
    run_torch: Callable[..., Tensor],
    run_fastgan: Callable[..., Tensor],
    work: str,
    gradient: Callable[[Tensor], Tensor] = torch.randn_like,
    flops: Callable[[Tensor, bool], float] = lambda output, backward: 0.0,
    options: dict[str, Any] | None = None,
) -> Work:
    """``wanted``: whose gradients; ``gradient``: what is sent backwards for an output; ``flops``: of (the output,
    whether a backward pass is added)."""
    leaves = {name: t.requires_grad_(work != FORWARD and name in wanted) for name, t in tensors.items()}
    with torch.no_grad():
        output = run_torch(**tensors)
    sent = gradient(output) if work == BOTH else None
    moved = [*tensors.values(), output]
    if sent is not None:
        moved += [*tensors.values(), sent, *(tensors[name] for name in wanted)]

    def bind(function: Callable[..., Tensor], inputs: Results = leaves, backwards: Tensor | None = sent) -> Call:
        sources = [inputs[name] for name in wanted]

        def forward() -> Results:
            with torch.no_grad():
                return {"output": function(**inputs)}

        def recorded() -> Results:
            return {"output": function(**inputs)}

        def both() -> Results:
            output = function(**inputs)
            grads = torch.autograd.grad(output, sources, backwards)
            return {"output": output.detach(), **{f"grad of {n}": g for n, g in zip(wanted, grads, strict=True)}}

        return {FORWARD: forward, RECORDED: recorded, BOTH: both}[work]

    def judge() -> Results:
        double = {name: t.detach().double().requires_grad_(t.requires_grad) for name, t in leaves.items()}
        return bind(run_torch, double, None if sent is None else sent.double())()

    return Work(
        torch=lambda wrap: bind(wrap(run_torch)),
        fastgan=lambda: bind(run_fastgan),
        judge=judge,
        flops=lambda: flops(output, work == BOTH),
        traffic=sum(t.numel() * t.element_size() for t in moved),
        bind=bind,
        options=options or {},
    )


def conv(
    name: str,
    op: str,
    image: tuple[int, int, int],
    weight: tuple[int, ...],
    bias: bool,
    works: tuple[str, ...] = USUAL,
    **options: Any,
) -> list[Case]:
    """``op``: "conv2d" or "conv_transpose2d"; ``image``: C, H, W of the input; ``options``: of the op."""
    up = op == "conv_transpose2d"
    channels = weight[1] * options.get("groups", 1) if up else weight[0]

    def setup(setting: Setting, work: str) -> Work:
        torch.manual_seed(0)
        tensors = {
            "input": setting.place(torch.randn(setting.batch, *image)),
            "weight": setting.place(torch.randn(weight) * 0.02),
        }
        if bias:
            tensors["bias"] = setting.place(torch.randn(channels))

        def run_torch(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            if options.get("padding") == "same":
                return same_conv2d(input, weight, bias, options["stride"])
            return getattr(F, op)(input, weight, bias, **options)

        def run_fastgan(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
            return getattr(functional, op)(input, weight, bias, **options)

        def flops(output: Tensor, backward: bool) -> float:
            # every element of the weight meets every pixel of the side that the stride makes small
            pixels = setting.batch * image[1] * image[2] if up else output.numel() // channels
            return 2.0 * tensors["weight"].numel() * pixels * (3 if backward else 1)

        return _work(tensors, tuple(tensors), run_torch, run_fastgan, work, flops=flops, options={"op": op})

    return [dataclasses.replace(case, weight=weight) for case in _cases(op, name, works, setup)]


def norm(name: str, image: tuple[int, int, int], activation: str, works: tuple[str, ...] = USUAL) -> list[Case]:
    """Batch norm in training, then ``activation``; ``image``: C, H, W."""
    known = {"op": "batch_norm_act", "activation": activation, "slope": 0.2, "eps": 1e-5}

    def setup(setting: Setting, work: str) -> Work:
        torch.manual_seed(0)
        channels = image[0]

        def vector(values: Tensor) -> Tensor:
            return values.to(setting.device, torch.float32)  # as under autocast

        tensors = {
            "input": setting.place(torch.randn(setting.batch, *image)),
            "weight": vector(1 + 0.1 * torch.randn(channels)),
            "bias": vector(0.1 * torch.randn(channels)),
            "mean": vector(torch.zeros(channels)),
            "var": vector(torch.ones(channels)),
        }

        def normalise(input: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
            return F.batch_norm(input, mean, var, weight, bias, True, 0.1, 1e-5)

        def run_torch(input: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
            output = normalise(input, weight, bias, mean, var)
            return F.relu_(output) if activation == "relu" else F.leaky_relu_(output, 0.2)

        def run_fastgan(input: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
            return functional.batch_norm_act(input, mean, var, weight, bias, True, 0.1, 1e-5, activation, 0.2)

        def gradient(output: Tensor) -> Tensor:
            # at the activation's corner a rounding error decides the slope: nothing is sent back there
            before = normalise(**{key: t.detach().double() for key, t in tensors.items()})
            return torch.randn_like(output).masked_fill_(before.abs() < 1e-3, 0)

        def flops(output: Tensor, backward: bool) -> float:
            # forward: mean 1, variance 3, normalise 2, activate 1; backward: slope 1, two sums 3, the gradient 4
            return output.numel() * (15.0 if backward else 7.0)

        wanted = ("input", "weight", "bias")
        return _work(tensors, wanted, run_torch, run_fastgan, work, gradient, flops, known)

    return _cases("batch_norm_act", name, works, setup)


def loss(logits: int, works: tuple[str, ...] = USUAL) -> list[Case]:
    """Sigmoid-BCE against "all real", the mean of all."""

    def setup(setting: Setting, work: str) -> Work:
        torch.manual_seed(0)
        tensors = {"input": setting.place(3 * torch.randn(logits))}
        ones = {setting.dtype: torch.ones(logits, device=setting.device, dtype=setting.dtype)}  # once: favours torch

        def run_torch(input: Tensor) -> Tensor:
            target = ones[input.dtype] if input.dtype in ones else torch.ones_like(input)
            return F.binary_cross_entropy_with_logits(input, target)

        def run_fastgan(input: Tensor) -> Tensor:
            return functional.binary_cross_entropy_with_logits(input, 1.0)

        def flops(output: Tensor, backward: bool) -> float:
            # forward: exp and log1p count 1 each, 5 more; backward: sigmoid 3, difference and scale 2
            return logits * (12.0 if backward else 7.0)

        known = {"op": "bce_with_logits"}
        return _work(tensors, ("input",), run_torch, run_fastgan, work, torch.ones_like, flops, known)

    cases = _cases("bce_with_logits", f"{logits} logits", works, setup)
    return [dataclasses.replace(case, images=False, batches=(logits,)) for case in cases]


def discriminator(logits: int) -> list[Case]:
    """A discriminator's loss: the mean of as many real logits against 1 and that of fake ones against 0."""
    wanted = ("real_logits", "fake_logits")

    def setup(setting: Setting, work: str) -> Work:
        torch.manual_seed(0)
        tensors = {name: setting.place(3 * torch.randn(logits)) for name in wanted}
        targets = [
            {setting.dtype: torch.full_like(tensors["real_logits"], value)} for value in (1.0, 0.0)
        ]  # favours torch

        def run_torch(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
            pairs = zip((real_logits, fake_logits), targets, (1.0, 0.0), strict=True)
            first, second = (
                F.binary_cross_entropy_with_logits(x, made[x.dtype] if x.dtype in made else torch.full_like(x, value))
                for x, made, value in pairs
            )
            return first + second

        def flops(output: Tensor, backward: bool) -> float:
            return 2 * logits * (12.0 if backward else 7.0)  # as those of the loss

        known = {"op": "discriminator_loss"}
        run_fastgan = functional.discriminator_loss
        return _work(tensors, wanted, run_torch, run_fastgan, work, torch.ones_like, flops, known)

    cases = _cases("discriminator_loss", f"{logits} of each", USUAL, setup)
    return [dataclasses.replace(case, images=False, batches=(logits,)) for case in cases]


def _cases(group: str, name: str, works: tuple[str, ...], setup: Callable[[Setting, str], Work]) -> list[Case]:
    return [Case(group, name, work, functools.partial(setup, work=work)) for work in works]
