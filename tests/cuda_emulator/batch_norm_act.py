"""The steps of batch norm + activation in the emulator, as torch calls the compiled ones, and the bytes they move."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from fastgan.ops.common.activation import Activation
from fastgan.ops.common.dtypes import accumulate_type
from tests.cuda_emulator import Emulator

#: (multiprocessors, bytes of shared memory a block, clusters) of made-up GPUs, and the form that they give most shapes.
FORMS = {
    "clusters": (40, 100_000, 1),
    "blocks": (1, 200_000, 0),
    "two passes": (24, 16_384, 0),
}
ACTIVATIONS = {0: (0, 1.0), 1: (1, 0.0), 2: (0, None)}  # (relu, slope) of the launch; None: the one given


@dataclass
class Seen:
    read: int
    written: int
    cluster: int
    parts: int
    threads: int
    vector: int


class Kernels:
    """The six steps, as torch.ops.fastgan_native.batch_norm_act_* take them."""

    def __init__(self, running: Emulator, form: str, seed: int = 0) -> None:
        self.running, self.form, self.seed, self.seen = running, form, seed, []
        self.skipped = 0  # elements between a multiple of 16 bytes and where tensors begin

    def _job(self, step: str, input: torch.Tensor, end: tuple[int, float], tensors: dict[str, Any], **numbers: Any):
        channels_last = not input.is_contiguous()
        inner = 1 if channels_last else math.prod(input.shape[2:])
        outer = input.numel() // max(1, inner * input.shape[1])
        activation, slope = end
        relu, of_kernel = ACTIVATIONS[int(activation)]
        words = [self.seed, outer, input.shape[1], inner, *FORMS[self.form], numbers.get("momentum", 0.0)]
        words += [
            numbers.get("eps", 0.0),
            relu,
            slope if of_kernel is None else of_kernel,
            numbers.get("training", 0),
            self.skipped,
        ]
        words += [int(tensors.get(name) is not None) for name in ("weight", "bias", "running_mean")]
        big = [tensors.get("grad_output")] if step.startswith("backward") else []
        flat = [(x.movedim(1, -1) if channels_last else x).contiguous() for x in (input, *big)]
        names = ("weight", "bias", "mean", "rstd", "running_mean", "running_var", "per_centred", "per_element")
        flat += [tensors[name].double().contiguous() for name in names if tensors.get(name) is not None]
        dtype = str(input.dtype).removeprefix("torch.")
        data = bytearray(self.running.run(["batch_norm_act", dtype, step, *map(repr, words)], flat))
        size, vectors = input.numel() * input.itemsize, 6 * 8 * input.shape[1]
        output = torch.empty_like(input)
        values = torch.frombuffer(data[:size], dtype=input.dtype)
        moved = input.movedim(1, -1) if channels_last else input
        values = values.view(moved.shape)
        output.copy_(values.movedim(-1, 1) if channels_last else values)
        found = torch.frombuffer(data[size : size + vectors], dtype=torch.float64).view(6, -1)
        self.seen.append(Seen(*torch.frombuffer(data[size + vectors :], dtype=torch.int64).tolist()))
        return output, found.unbind()

    def train(self, input, weight, bias, running_mean, running_var, momentum, eps, *end):
        given = {"weight": weight, "bias": bias, "running_mean": running_mean, "running_var": running_var}
        output, found = self._job("train", input, end, given, momentum=momentum, eps=eps)
        wide = accumulate_type(input.dtype)
        if running_mean is not None:
            running_mean.copy_(found[2])
            running_var.copy_(found[3])
        return output, found[0].to(wide), found[1].to(wide)

    def eval(self, input, weight, bias, mean, rstd, *end):
        given = {"weight": weight, "bias": bias, "mean": mean, "rstd": rstd}
        return self._job("eval", input, end, given)[0]

    def backward(self, grad_output, input, weight, bias, mean, rstd, training, *end):
        given = {"grad_output": grad_output, "weight": weight, "bias": bias, "mean": mean, "rstd": rstd}
        output, found = self._job("backward", input, end, given, training=int(training))
        wide = accumulate_type(input.dtype)
        return output, found[4].to(wide), found[5].to(wide)

    def stats(self, input):
        found = self._job("stats", input, (0, 0.0), {})[1]
        return found[0].clone(), found[1].clone()

    def backward_reduce(self, grad_output, input, weight, bias, mean, rstd, *end):
        given = {"grad_output": grad_output, "weight": weight, "bias": bias, "mean": mean, "rstd": rstd}
        found = self._job("backward_reduce", input, end, given, training=1)[1]
        return found[4].clone(), found[5].clone()

    def backward_apply(self, grad_output, input, weight, bias, mean, rstd, per_centred, per_element, *end):
        given = {"grad_output": grad_output, "weight": weight, "bias": bias, "mean": mean, "rstd": rstd}
        given |= {"per_centred": per_centred, "per_element": per_element}
        return self._job("backward_apply", input, end, given, training=1)[0]


#: Passes over a tensor of activations that a form needs (forward, backward), and how many times that it may move.
PASSES = {"clusters": (2, 3), "blocks": (2, 3), "two passes": (3, 5)}
MOST = 1.05


def passes(kernels: Kernels, channels_last: bool) -> tuple[list[int], tuple[float, float]]:
    """(shape of a bfloat16 tensor, passes over it whose bytes training moves forward and backward), in the form of
    ``kernels``."""
    shape = [16 if kernels.form == "blocks" else 64, 64, 8, 8]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    noise = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(shape, generator=noise).bfloat16().contiguous(memory_format=layout) for _ in range(2))
    weight, bias, running_mean, running_var = torch.rand(4, shape[1], generator=noise).unbind()
    end = Activation.RELU, 0.0
    _, mean, rstd = kernels.train(x, weight, bias, running_mean, running_var, 0.1, 1e-5, *end)
    kernels.backward(grad, x, weight, bias, mean, rstd, True, *end)
    forward, backward = ((seen.read + seen.written) / (x.numel() * x.itemsize) for seen in kernels.seen[-2:])
    return shape, (forward, backward)
