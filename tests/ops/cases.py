"""Shared data of the op tests: named convolution cases, layouts, integers, batch norm's data, gradients, errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.checks import DTYPES

Pair = tuple[int, int]

DTYPE_IDS = [str(dtype).removeprefix("torch.") for dtype in DTYPES]


@dataclass(frozen=True)
class Conv:
    """One transposed convolution; read backwards, from the big image to the small one, it is a strided convolution with
    the same weight. ``channels`` are those of (small, big)."""

    name: str
    size: Pair = (3, 4)
    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    output_padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    channels: Pair = (2, 3)
    batch: int = 2

    @property
    def big_size(self) -> Pair:
        return tuple(
            (i - 1) * s - 2 * p + d * (k - 1) + op + 1
            for i, s, p, d, k, op in zip(
                self.size, self.stride, self.padding, self.dilation, self.kernel, self.output_padding, strict=True
            )
        )

    @property
    def small_shape(self) -> tuple[int, ...]:
        return (self.batch, self.channels[0], *self.size)

    @property
    def big_shape(self) -> tuple[int, ...]:
        return (self.batch, self.channels[1], *self.big_size)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.channels[0], self.channels[1] // self.groups, *self.kernel)

    def options(self, transposed: bool) -> dict[str, Any]:
        """The keyword arguments of conv_transpose2d or conv2d, ours and torch's."""
        shared = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": self.groups}
        return {**shared, "output_padding": self.output_padding} if transposed else shared

    def tensors(self, transposed: bool, make: Callable[[Sequence[int]], torch.Tensor]) -> list[torch.Tensor]:
        """[input, weight, bias] made by ``make(shape)``."""
        shape = self.small_shape if transposed else self.big_shape
        return [make(shape), make(self.weight_shape), make((self.channels[1 if transposed else 0],))]


CONV_CASES = [
    Conv("k1"),
    Conv("k3"),
    Conv("dcgan-k4s2p1", (4, 4), (4, 4), (2, 2), (1, 1)),
    Conv("first-k4s1p0-on-1x1", (1, 1), (4, 4), channels=(5, 3)),
    Conv("k5s2p2op1", (3, 3), (5, 5), (2, 2), (2, 2), (1, 1)),
    Conv("asymmetric-stride", (3, 4), (4, 3), (2, 3), (1, 0), (1, 2)),
    Conv("rectangular-kernel", (4, 3), (1, 4), (1, 2), (0, 1)),
    Conv("stride-beyond-kernel", (3, 2), (2, 1), (3, 4)),
    Conv("stride-beyond-kernel-op", (2, 3), (2, 2), (4, 3), (1, 0), (3, 2)),
    Conv("padding-beyond-kernel", (5, 4), (2, 2), (2, 1), (3, 1)),
    Conv("padding-far-beyond-kernel", (6, 6), (2, 1), (2, 2), (4, 5)),
    Conv("dilation", (3, 4), (3, 2), (1, 1), (1, 0), dilation=(2, 3)),
    Conv("dilation-stride", (3, 2), (2, 3), (2, 2), (1, 2), (1, 1), (3, 2)),
    Conv("output-padding-beyond-stride", (3, 3), (2, 2), (1, 2), (0, 1), (2, 2), (3, 3)),
    Conv("groups", (3, 3), (3, 3), (2, 2), (1, 1), groups=2, channels=(4, 6)),
    Conv("depthwise", (3, 3), (4, 4), (2, 2), (1, 1), groups=3, channels=(3, 3)),
    Conv("depthwise-multiplier", (3, 3), (3, 3), groups=3, channels=(3, 6)),
    Conv("wide-to-narrow", (2, 2), (4, 4), (2, 2), (1, 1), channels=(67, 1), batch=1),
    Conv("narrow-to-wide", (2, 2), (3, 3), (2, 2), (1, 1), channels=(1, 33), batch=1),
    Conv("single-row", (1, 7), (1, 3), (1, 2), (0, 1), batch=3),
]

conv_cases = pytest.mark.parametrize("case", CONV_CASES, ids=lambda case: case.name)
directions = pytest.mark.parametrize("transposed", [True, False], ids=["conv_transpose2d", "conv2d"])
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)

#: Triton's interpreter computes with numpy, which warns about what IEEE arithmetic defines.
interpreter_overflows = pytest.mark.filterwarnings(
    "ignore:overflow encountered:RuntimeWarning", "ignore:invalid value encountered:RuntimeWarning"
)


def conv_functions(transposed: bool) -> tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]:
    """(ours, torch's)."""
    from fastgan import functional

    return (functional.conv_transpose2d, F.conv_transpose2d) if transposed else (functional.conv2d, F.conv2d)


def integers(shape: Sequence[int], dtype: torch.dtype = torch.float32, limit: int = 4) -> torch.Tensor:
    """Whole numbers from -limit to limit: sums of their products are exact in float32."""
    return torch.randint(-limit, limit + 1, tuple(shape)).to(dtype)


def _sliced(tensor: torch.Tensor) -> torch.Tensor:
    room = tensor.new_full((*tensor.shape[:-1], 2 * tensor.shape[-1] + 1), float("nan"))
    view = room[..., 1::2]
    return view.copy_(tensor)


def _transposed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


def _swapped(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.transpose(0, 1).contiguous().transpose(0, 1)


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


#: Each gives a tensor with other strides; "expanded" also repeats the first entry of the first dimension.
LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "nchw": lambda tensor: tensor.contiguous(),
    "nhwc": _channels_last,
    "sliced": _sliced,
    "transposed": _transposed,
    "swapped": _swapped,
    "expanded": lambda tensor: tensor[:1].expand(tensor.shape),
}


def with_gradients(
    function: Callable[..., torch.Tensor],
    tensors: Sequence[torch.Tensor | None],
    grad_output: torch.Tensor | None = None,
) -> list[torch.Tensor]:
    """[output, gradients of all given tensors]; ``grad_output`` None means ones. Strides of the tensors are kept."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    output = function(*leaves)
    seed = torch.ones_like(output) if grad_output is None else grad_output.to(output.dtype)
    given = [leaf for leaf in leaves if leaf is not None]
    return [output.detach(), *torch.autograd.grad(output, given, seed, materialize_grads=True)]


def outcome(call: Callable[[], Any]) -> tuple[type[BaseException], str]:
    """(type, message) of what ``call`` raises."""
    with pytest.raises(Exception) as caught:
        call()
    return caught.type, str(caught.value)


def on_threads(call: Callable[[], Sequence[torch.Tensor]]) -> Sequence[torch.Tensor]:
    """What ``call`` returns, the same bits with 1, 2 and 5 threads."""
    before, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(call())
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert one.shape == two.shape and one.dtype == two.dtype
            assert bytes_of(one) == bytes_of(two), "the number of threads changes the result"
    return results[0]


def bytes_of(tensor: torch.Tensor) -> bytes:
    """Its elements' bits, NaN and the sign of zero included."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def wide(tensors: Sequence[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """The same values in float64: the judge's arguments."""
    return [None if tensor is None else tensor.double() for tensor in tensors]


class Undefined(torch.autograd.Function):
    """Identity whose backward gives an undefined gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> None:
        return None


ACTIVATIONS = ("none", "relu", "leaky_relu")
activations = pytest.mark.parametrize("activation", ACTIVATIONS)


def batch_norm_then(activation: str, slope: float = 0.2) -> Callable[..., torch.Tensor]:
    """torch's two ops; takes (input, running_mean, running_var, weight, bias, training, momentum, eps)."""
    act = {"none": lambda z: z, "relu": F.relu, "leaky_relu": lambda z: F.leaky_relu(z, slope)}[activation]
    return lambda *args: act(F.batch_norm(*args))


def batch_norm_tensors(shape: Sequence[int], mean: float = 1.0, std: float = 1.0) -> list[torch.Tensor]:
    """[input, weight, bias, grad_output] in float64 for which every gradient is well conditioned.

    The activation's derivative jumps at z = 0, so a z of the size of the rounding error may legally fall on either
    side: here |xhat| stays well above |bias / weight|. The gradient has a share of 2, of xhat and of noise, so that
    neither of the sums over it cancels and the input's gradient does not either.
    """
    count = torch.Size(shape).numel() // max(shape[1], 1)
    signs = torch.arange(count).remainder(2).mul(2).sub(1).double()
    signs = torch.stack([signs[torch.randperm(count)] for _ in range(shape[1])], 1) if shape[1] else signs.view(-1, 0)
    plane = signs * (torch.rand(count, shape[1], dtype=torch.float64) * 0.5 + 0.75)
    grad = 2 + 0.5 * (plane + torch.randn(count, shape[1], dtype=torch.float64))
    sizes = (shape[0], *shape[2:], shape[1])
    x, g = (t.reshape(sizes).movedim(-1, 1).contiguous() for t in (plane * std + mean, grad))
    weight = (torch.rand(shape[1], dtype=torch.float64) + 0.5) * torch.where(torch.rand(shape[1]) < 0.3, -1, 1)
    return [x, weight, (torch.rand(shape[1], dtype=torch.float64) - 0.5) * 0.2, g]
