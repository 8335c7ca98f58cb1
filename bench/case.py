"""What a case is: tensors set up once, and one result computed by torch, by fastgan and, in float64, by the judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.kinks import Sides

BATCH, QUICK_BATCH = 128, 32
#: Groups whose cases have a batch size each, their number of logits.
LOSSES = ("bce_with_logits", "discriminator_loss")
Results = dict[str, Tensor]
Call = Callable[[], Results]
Wrap = Callable[[Any], Any]  # around a function or a network, such as torch.compile


def keep(function: Any) -> Any:
    """The :data:`Wrap` of eager mode."""
    return function


@dataclass(frozen=True)
class Setting:
    """Where and how a case runs."""

    device: torch.device
    dtype: torch.dtype
    channels_last: bool
    batch: int = BATCH

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place(self, tensor: Tensor) -> Tensor:
        """``tensor`` on the device, in the dtype and the memory format."""
        tensor = tensor.to(self.device, self.dtype)
        return tensor.contiguous(memory_format=self.memory_format) if tensor.dim() == 4 else tensor


@dataclass(frozen=True)
class Work:
    """One case in one setting. ``torch`` and ``fastgan`` make a callable each; what they need for themselves (networks,
    optimizers) they make then, so that the memory of one does not count as the other's.

    Attributes:
        torch: wraps torch's functions or networks, binds them to the tensors and returns what is timed.
        fastgan: the same for ours.
        judge: computes it in float64.
        norm: gradients are compared over all of them (L2) rather than at the worst element.
        judge_at: of networks: the judge on the sides of the activations that a run had (bench/kinks.py).
        flops: counts the floating-point operations as libraries do, taps in the padding included.
        traffic: bytes, each tensor that a pass needs or makes once; 0 for networks, whose parts may stay in a cache.
        bind: for single ops, binds any function of the same tensors, such as a peer's.
        options: what such a function must know.
    """

    torch: Callable[[Wrap], Call]
    fastgan: Callable[[], Call]
    judge: Call
    norm: bool = False
    judge_at: Callable[[Sides], Results] | None = None
    flops: Callable[[], float] = lambda: 0.0
    traffic: int = 0
    bind: Callable[[Callable[..., Tensor]], Call] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """An entry of the registry.

    Attributes:
        group: the op, or what kind of thing it is ("training step").
        work: "forward", "forward, recorded", "forward+backward" or "step".
        images: its tensors are images, so that both memory formats are worth a run.
        weight: the shape of a convolution's.
        batches: the only batch sizes that it makes sense at; None: those that are asked for.
        float32_only: not repeated in 16 bits on a GPU.
        seconds: at most that long is spent on timing one setting.
    """

    group: str
    name: str
    work: str
    setup: Callable[[Setting], Work]
    images: bool = True
    weight: tuple[int, ...] | None = None
    batches: tuple[int, ...] | None = None
    float32_only: bool = False
    seconds: float = float("inf")

    @property
    def id(self) -> str:
        """For command lines and test names."""
        return f"{self.group}: {self.name}, {self.work}"


def settings(case: Case, device: torch.device, batches: tuple[int, ...]) -> list[Setting]:
    """The batch sizes of the case, or else ``batches``; both memory formats; float32, and bfloat16 on a GPU."""
    half = device.type == "cuda" and not case.float32_only
    dtypes = (torch.float32, torch.bfloat16) if half else (torch.float32,)
    formats = (False, True) if case.images else (False,)
    sizes = case.batches or batches
    return [Setting(device, dtype, last, batch) for batch in sizes for dtype in dtypes for last in formats]
