"""Cases of networks and their blocks: the generator at work, forward + backward of each, training steps."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import fastgan
from bench.case import Call, Case, Results, Setting, Work, Wrap, keep
from bench.kinks import Judge, Sides
from bench.networks import plain, torch_train_step
from fastgan import models
from fastgan.training import TrainConfig
from fastgan.training.step import Players, train_step

D_LOSS = 2  # its place in the trace of a step


@dataclass(frozen=True)
class Model:
    """A pair of networks; ``image``: C, H, W; ``classes``: 0 where there is no label."""

    name: str
    generator: Callable[[], nn.Module]
    discriminator: Callable[[], nn.Module]
    image: tuple[int, int, int]
    z_dim: int
    classes: int

    def draw(self, setting: Setting) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Real images, noise and labels, float32."""
        real = (torch.rand(setting.batch, *self.image) * 2 - 1).to(setting.device)
        z = torch.randn(setting.batch, self.z_dim).to(setting.device)
        labels = (torch.randint(self.classes, (setting.batch,)).to(setting.device),) if self.classes else ()
        return real.contiguous(memory_format=setting.memory_format), z, labels


MODELS = (
    Model("DCGAN", models.DCGANGenerator, models.DCGANDiscriminator, (3, 32, 32), 128, 0),
    Model("cGAN", models.CGANGenerator, models.CGANDiscriminator, (1, 28, 28), 100, 10),
)


def _autocast(setting: Setting) -> contextlib.AbstractContextManager[Any]:
    """16-bit dtypes run under autocast: the parameters stay float32."""
    half = setting.dtype in (torch.float16, torch.bfloat16)
    return torch.autocast(setting.device.type, setting.dtype) if half else contextlib.nullcontext()


def _network_on(setting: Setting, build: Callable[[], nn.Module]) -> Any:
    return build().to(setting.device).to(memory_format=setting.memory_format)


def _network_call(
    network: Any, inputs: tuple[Tensor, ...], backwards: Tensor | None, context: Callable[[], Any]
) -> Call:
    wanted = [*network.parameters(), *(tensor for tensor in inputs if tensor.requires_grad)]

    def forward() -> Results:
        with torch.no_grad(), context():
            return {"output": network(*inputs)}

    def both() -> Results:
        with context():
            output = network(*inputs)
        grads = torch.autograd.grad(output, wanted, backwards)
        return {"output": output.detach(), **{f"grad {i}": grad for i, grad in enumerate(grads)}}

    return forward if backwards is None else both


def _network_work(
    setting: Setting, model: Model, is_generator: bool, training: bool, made: Callable[[Any], Any] = copy.deepcopy
) -> Work:
    torch.manual_seed(0)
    network = _network_on(setting, model.generator if is_generator else model.discriminator)
    real, z, condition = model.draw(setting)
    return _work_of(setting, network, (z if is_generator else real, *condition), training, training, made)


def _work_of(
    setting: Setting,
    network: Any,
    inputs: tuple[Tensor, ...],
    training: bool,
    backward: bool,
    made: Callable[[Any], Any] = copy.deepcopy,
) -> Work:
    """``made``: what fastgan runs, made of the network."""
    with torch.no_grad(), _autocast(setting):
        output = network(*inputs)  # in eval too: it moves the running statistics
    sent = torch.randn_like(output) if backward else None
    network.train(training)

    def run_torch(wrap: Wrap) -> Call:
        return _network_call(wrap(plain(network)), inputs, sent, lambda: _autocast(setting))

    def judge(sides: Sides | None = None) -> Results:
        placing = Judge(sides or [], setting.dtype)
        place = keep if sides is None else placing.place
        double = tuple(t.double() if t.is_floating_point() else t for t in inputs)
        backwards = None if sent is None else sent.double()
        results = _network_call(place(plain(network).double()), double, backwards, contextlib.nullcontext)()
        placing.finish()
        return results

    return Work(
        torch=run_torch,
        fastgan=lambda: _network_call(made(network), inputs, sent, lambda: _autocast(setting)),
        judge=judge,
        norm=True,
        judge_at=judge,
        flops=lambda: _count(run_torch(keep)),
    )


def _count(call: Call) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def inference(model: Model, folded: bool) -> Case:
    """The generator in eval mode, as ``fastgan sample`` runs it, or after ``fastgan.fold_batch_norm``; torch's stays as
    it is."""

    def setup(setting: Setting) -> Work:
        return _network_work(setting, model, True, False, fastgan.fold_batch_norm if folded else copy.deepcopy)

    return Case("inference", f"{'folded ' * folded}{model.name} G", "forward", setup, batches=(1, 64))


def networks(model: Model) -> list[Case]:
    """Forward + backward of each network alone, gradients to all parameters."""

    def case(name: str, is_generator: bool) -> Case:
        def setup(setting: Setting) -> Work:
            return _network_work(setting, model, is_generator, True)

        return Case("network", f"{model.name} {name}", "forward+backward", setup)

    return [case("G", True), case("D", False)]


def block(name: str, image: tuple[int, int, int], channels: int) -> list[Case]:
    """What the networks are made of, in training: G's transposed convolution, batch norm and ReLU, or D's convolution,
    batch norm and LeakyReLU; gradients to the parameters and to the input. ``image``: C, H, W of the input."""
    up = name.split()[1] == "G"

    def setup(setting: Setting, backward: bool) -> Work:
        torch.manual_seed(0)
        convolution = (fastgan.nn.ConvTranspose2d if up else fastgan.nn.Conv2d)(image[0], channels, 4, 2, 1, bias=False)
        norm = fastgan.nn.BatchNormAct2d(channels, activation="relu" if up else "leaky_relu", negative_slope=0.2)
        network = _network_on(setting, lambda: nn.Sequential(fastgan.nn.FusedSequential(convolution, norm)))
        input = setting.place(torch.randn(setting.batch, *image)).requires_grad_(backward)
        # as bench.ops counts; torch's counter refuses modules whose input is a leaf with a gradient
        pixels = setting.batch * image[1] * image[2] // (1 if up else 4)
        flops = 2.0 * convolution.weight.numel() * pixels * (3 if backward else 1)
        return dataclasses.replace(_work_of(setting, network, (input,), True, backward), flops=lambda: flops)

    works = {"forward": False, "forward+backward": True}
    return [Case("block", name, work, functools.partial(setup, backward=backward)) for work, backward in works.items()]


def _players(pair: list[Any], wrap: Wrap = keep, fused: bool = True) -> Players:
    # capturable: or a CUDA graph could not hold the step
    options = {"fused": fused, "capturable": fused and next(pair[0].parameters()).is_cuda}
    optimizers = [torch.optim.Adam(n.parameters(), lr=2e-4, betas=(0.5, 0.999), **options) for n in pair]
    return Players(*(wrap(network) for network in pair), *optimizers)


def step(model: Model) -> Case:
    """One turn of the game, both optimizers included."""

    def setup(setting: Setting) -> Work:
        torch.manual_seed(0)
        pair = [_network_on(setting, build) for build in (model.generator, model.discriminator)]
        real, z, condition = model.draw(setting)
        labels = condition[0] if condition else None
        config = TrainConfig("gan", "digits")  # of which a step reads the losses only

        def bind(players: Players, turn: Callable[[Players], Tensor], context: Callable[[], Any]) -> Call:
            def run() -> Results:
                with context():
                    metrics = turn(players)
                # D's gradients of this step; those of G already depend on D's optimizer step
                grads = [p.grad for p in players.discriminator.parameters() if p.grad is not None]
                return {"d_loss": metrics[0], **{f"grad {i}": grad for i, grad in enumerate(grads)}}

            return run

        def run_torch(wrap: Wrap) -> Call:
            players = _players([plain(network) for network in pair], wrap)
            return bind(players, torch_train_step(real, z, labels), lambda: _autocast(setting))

        def run_fastgan() -> Call:
            def turn(players: Players) -> Tensor:
                return train_step(players, lambda: (real, z, condition), config)[D_LOSS:]

            return bind(_players(copy.deepcopy(pair)), turn, lambda: _autocast(setting))

        def judge(sides: Sides | None = None) -> Results:
            placing = Judge(sides or [], setting.dtype)
            place = keep if sides is None else placing.place
            double = _players([place(plain(network).double()) for network in pair], fused=False)
            # what is judged is made before D's step
            double.d_optimizer.register_step_post_hook(lambda *_: setattr(placing, "strict", False))
            results = bind(double, torch_train_step(real.double(), z.double(), labels), contextlib.nullcontext)()
            placing.finish()
            return results

        return Work(run_torch, run_fastgan, judge, norm=True, judge_at=judge, flops=lambda: _count(run_torch(keep)))

    return Case("training step", model.name, "step", setup)
