"""The registry of cases. A case sets up tensors once and gives torch's callable and fastgan's on the same tensors."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.networks import plain, same_conv2d, torch_train_step
from fastgan import functional, models
from fastgan.training import TrainConfig
from fastgan.training.step import Players, train_step

BATCH, QUICK_BATCH = 128, 32
Results = dict[str, Tensor]


@dataclass(frozen=True)
class Setting:
    """Where and how a case runs."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool
    batch: int = BATCH

    def place(self, tensor: Tensor) -> Tensor:
        """``tensor`` on the device, in the dtype and the memory format."""
        tensor = tensor.to(self.device, self.dtype)
        if tensor.dim() != 4:
            return tensor
        return tensor.contiguous(memory_format=torch.channels_last if self.channels_last else torch.contiguous_format)


@dataclass(frozen=True)
class Pair:
    """Two callables that compute the same, and the judge, which computes it in float64. ``norm``: errors are compared
    over the whole result (L2) rather than at its worst element: in a network a rounding error may flip the slope of one
    activation, in torch's run as in ours."""

    torch: Callable[[], Results]
    fastgan: Callable[[], Results]
    judge: Callable[[], Results]
    norm: bool = False


@dataclass(frozen=True)
class Case:
    """``group``: the op, or "training step"; ``work``: "forward", "forward+backward" or "step"; ``images``: its tensors
    are images, so that both memory formats are worth a run; ``weight``: the shape of a convolution's."""

    group: str
    name: str
    work: str
    setup: Callable[[Setting], Pair]
    images: bool = True
    weight: tuple[int, ...] | None = None

    @property
    def id(self) -> str:
        """For command lines and test names."""
        return f"{self.group}: {self.name}, {self.work}"


def _pair(
    tensors: Results,
    wanted: tuple[str, ...],
    run_torch: Callable[..., Tensor],
    run_fastgan: Callable[..., Tensor],
    grad: Callable[[Tensor], Tensor] | None,
) -> Pair:
    """``wanted``: whose gradients; ``grad``: what is sent backwards for an output, None for forward alone."""
    leaves = {name: t.requires_grad_(grad is not None and name in wanted) for name, t in tensors.items()}
    double = {name: t.detach().double().requires_grad_(t.requires_grad) for name, t in tensors.items()}
    with torch.no_grad():
        sent = None if grad is None else grad(run_torch(**tensors))

    def bind(function: Callable[..., Tensor], inputs: Results, backwards: Tensor | None) -> Callable[[], Results]:
        sources = [inputs[name] for name in wanted]

        def forward() -> Results:
            with torch.no_grad():
                return {"output": function(**inputs)}

        def both() -> Results:
            output = function(**inputs)
            grads = torch.autograd.grad(output, sources, backwards)
            return {"output": output.detach(), **{f"grad {n}": g for n, g in zip(wanted, grads, strict=True)}}

        return forward if backwards is None else both

    judge = bind(run_torch, double, None if sent is None else sent.double())
    return Pair(bind(run_torch, leaves, sent), bind(run_fastgan, leaves, sent), judge)


def _random_like(output: Tensor) -> Tensor:
    return torch.randn_like(output)


def _conv(
    name: str, op: str, image: tuple[int, int, int], weight: tuple[int, ...], bias: bool, **options: Any
) -> list[Case]:
    """``image``: C, H, W of the input."""
    channels = weight[1] if op == "conv_transpose2d" else weight[0]

    def setup(setting: Setting, backward: bool) -> Pair:
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

        return _pair(tensors, tuple(tensors), run_torch, run_fastgan, _random_like if backward else None)

    return [dataclasses.replace(case, weight=weight) for case in _both_works(op, name, setup)]


def _norm(name: str, image: tuple[int, int, int], activation: str) -> list[Case]:
    def setup(setting: Setting, backward: bool) -> Pair:
        torch.manual_seed(0)
        channels = image[0]
        vector = {"device": setting.device, "dtype": torch.float32}  # as under autocast
        weight, bias = 1 + 0.1 * torch.randn(channels), 0.1 * torch.randn(channels)
        tensors = {
            "input": setting.place(torch.randn(setting.batch, *image)),
            "weight": weight.to(**vector),  # type: ignore[call-overload]
            "bias": bias.to(**vector),  # type: ignore[call-overload]
            "mean": torch.zeros(channels, **vector),  # type: ignore[arg-type]
            "var": torch.ones(channels, **vector),  # type: ignore[arg-type]
        }

        def normalise(input: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
            return F.batch_norm(input, mean, var, weight, bias, True, 0.1, 1e-5)

        def run_torch(**tensors: Tensor) -> Tensor:
            output = normalise(**tensors)
            return F.relu_(output) if activation == "relu" else F.leaky_relu_(output, 0.2)

        def run_fastgan(input: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
            return functional.batch_norm_act(input, mean, var, weight, bias, True, 0.1, 1e-5, activation, 0.2)

        def grad(output: Tensor) -> Tensor:
            # at the activation's corner a rounding error decides the slope: nothing is sent back there
            before = normalise(**{key: t.detach().double() for key, t in tensors.items()})
            return torch.randn_like(output).masked_fill_(before.abs() < 1e-3, 0)

        wanted = ("input", "weight", "bias")
        return _pair(tensors, wanted, run_torch, run_fastgan, grad if backward else None)

    return _both_works("batch_norm_act", name, setup)


def _loss(logits: int) -> list[Case]:
    def setup(setting: Setting, backward: bool) -> Pair:
        torch.manual_seed(0)
        tensors = {"input": setting.place(3 * torch.randn(logits))}
        ones = torch.ones(logits, device=setting.device)  # made once, which favours torch

        def run_torch(input: Tensor) -> Tensor:
            return F.binary_cross_entropy_with_logits(input, ones.to(input.dtype))

        def run_fastgan(input: Tensor) -> Tensor:
            return functional.binary_cross_entropy_with_logits(input, 1.0)

        return _pair(tensors, ("input",), run_torch, run_fastgan, torch.ones_like if backward else None)

    return [dataclasses.replace(c, images=False) for c in _both_works("bce_with_logits", f"{logits} logits", setup)]


def _both_works(group: str, name: str, setup: Callable[[Setting, bool], Pair]) -> list[Case]:
    return [
        Case(group, name, "forward", lambda setting: setup(setting, False)),
        Case(group, name, "forward+backward", lambda setting: setup(setting, True)),
    ]


D_LOSS = 2  # its place in the trace of a step


def _step(
    name: str, build: Callable[[], tuple[Any, Any]], image: tuple[int, int, int], z_dim: int, classes: int
) -> Case:
    """One turn of the game, both optimizers included. 16-bit dtypes run under autocast."""

    def setup(setting: Setting) -> Pair:
        torch.manual_seed(0)
        shape = torch.channels_last if setting.channels_last else torch.contiguous_format
        networks = [network.to(setting.device).to(memory_format=shape) for network in build()]
        real = (torch.rand(setting.batch, *image) * 2 - 1).to(setting.device).contiguous(memory_format=shape)
        z = torch.randn(setting.batch, z_dim).to(setting.device)
        labels = torch.randint(classes, (setting.batch,)).to(setting.device) if classes else None

        def bind(players: Players, step: Callable[[Players], Tensor], autocast: bool) -> Callable[[], Results]:
            def run() -> Results:
                with torch.autocast(setting.device.type, setting.dtype) if autocast else contextlib.nullcontext():
                    metrics = step(players)
                # D's gradients of this step; those of G already depend on D's optimizer step
                grads = [p.grad for p in players.discriminator.parameters() if p.grad is not None]
                return {"d_loss": metrics[0], **{f"grad {i}": grad for i, grad in enumerate(grads)}}

            return run

        def judge() -> Results:
            double = [plain(network).double() for network in networks]
            return bind(_players(double, False), torch_train_step(real.double(), z.double(), labels), False)()

        half = setting.dtype in (torch.float16, torch.bfloat16)
        theirs, ours = _players([plain(n) for n in networks], True), _players(copy.deepcopy(networks), True)
        config = TrainConfig("gan", "digits")  # of which a step reads the losses only
        batch = real, z, () if labels is None else (labels,)
        return Pair(
            bind(theirs, torch_train_step(real, z, labels), half),
            bind(ours, lambda players: train_step(players, lambda: batch, config)[D_LOSS:], half),
            judge,
            norm=True,
        )

    return Case("training step", name, "step", setup)


def _players(networks: list[Any], fused: bool) -> Players:
    optimizers = [torch.optim.Adam(n.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=fused) for n in networks]
    return Players(*networks, *optimizers)


_K4 = {"stride": 2, "padding": 1}
_SAME = {"stride": 2, "padding": "same"}
_UP, _DOWN = "conv_transpose2d", "conv2d"

# The steps come first: a run that is cut short should have them.
CASES: list[Case] = [
    _step("DCGAN", lambda: (models.DCGANGenerator(), models.DCGANDiscriminator()), (3, 32, 32), 128, 0),
    _step("cGAN", lambda: (models.CGANGenerator(), models.CGANDiscriminator()), (1, 28, 28), 100, 10),
    *_conv("DCGAN 512→256, 2→4", _UP, (512, 2, 2), (512, 256, 4, 4), False, **_K4),
    *_conv("DCGAN 256→128, 4→8", _UP, (256, 4, 4), (256, 128, 4, 4), False, **_K4),
    *_conv("DCGAN 128→64, 8→16", _UP, (128, 8, 8), (128, 64, 4, 4), False, **_K4),
    *_conv("DCGAN 64→3, 16→32", _UP, (64, 16, 16), (64, 3, 4, 4), True, **_K4),
    *_conv("cGAN 129→128, 7→14", _UP, (129, 7, 7), (129, 128, 4, 4), False, **_K4),
    *_conv("cGAN 128→64, 14→28", _UP, (128, 14, 14), (128, 64, 4, 4), False, **_K4),
    *_conv("DCGAN 3→64, 32→16", _DOWN, (3, 32, 32), (64, 3, 4, 4), True, **_K4),
    *_conv("DCGAN 64→128, 16→8", _DOWN, (64, 16, 16), (128, 64, 4, 4), False, **_K4),
    *_conv("DCGAN 128→256, 8→4", _DOWN, (128, 8, 8), (256, 128, 4, 4), False, **_K4),
    *_conv("DCGAN 256→512, 4→2", _DOWN, (256, 4, 4), (512, 256, 4, 4), False, **_K4),
    *_conv("cGAN 2→64, 28→14, same", _DOWN, (2, 28, 28), (64, 2, 4, 4), True, **_SAME),
    *_conv("cGAN 64→128, 14→7, same", _DOWN, (64, 14, 14), (128, 64, 4, 4), False, **_SAME),
    *_conv("cGAN 128→256, 7→4, same", _DOWN, (128, 7, 7), (256, 128, 4, 4), False, **_SAME),
    *_conv("cGAN 256→512, 4→2, same", _DOWN, (256, 4, 4), (512, 256, 4, 4), False, **_SAME),
    *_conv("cGAN 64→1, 28, k7", _DOWN, (64, 28, 28), (1, 64, 7, 7), True, padding=3),
    *_norm("DCGAN G 512 at 2x2", (512, 2, 2), "relu"),
    *_norm("DCGAN G 256 at 4x4", (256, 4, 4), "relu"),
    *_norm("DCGAN G 128 at 8x8", (128, 8, 8), "relu"),
    *_norm("DCGAN G 64 at 16x16", (64, 16, 16), "relu"),
    *_norm("DCGAN D 128 at 8x8", (128, 8, 8), "leaky_relu"),
    *_norm("cGAN G 128 at 14x14", (128, 14, 14), "relu"),
    *_norm("cGAN G 64 at 28x28", (64, 28, 28), "relu"),
    *_norm("cGAN D 128 at 7x7", (128, 7, 7), "leaky_relu"),
    *(case for logits in (128, 65536, 1 << 20) for case in _loss(logits)),
]
