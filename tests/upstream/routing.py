"""PyTorch's functions computed by fastgan's: a mode that sends the calls over, and counts them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from fastgan import functional

REDUCTIONS = ("none", "mean", "sum")  # torch._C's numbers


def _batch_norm(input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    return functional.batch_norm_act(input, *args, **kwargs, activation="none")


def _torch_batch_norm(
    input: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> torch.Tensor:
    return _batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def _torch_loss(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    pos_weight: torch.Tensor | None = None,
    reduction: int = 1,
) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(
        input, target, weight, reduction=REDUCTIONS[reduction], pos_weight=pos_weight
    )


#: torch's function: ours. ``F.conv2d`` is ``torch.conv2d``; the other two are Python functions around torch's.
ROUTES: dict[Callable[..., Any], Callable[..., torch.Tensor]] = {
    F.conv_transpose2d: functional.conv_transpose2d,
    F.conv2d: functional.conv2d,
    F.batch_norm: _batch_norm,
    torch.batch_norm: _torch_batch_norm,
    F.binary_cross_entropy_with_logits: functional.binary_cross_entropy_with_logits,
    torch.binary_cross_entropy_with_logits: _torch_loss,
}

#: How often a function was sent over by :func:`routed` in this process.
ROUTED: Counter[str] = Counter()


class Route(TorchFunctionMode):
    """Inside the ``with`` block the functions of :data:`ROUTES` are ours; ``calls`` counts them by torch's names."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        ours = ROUTES.get(function)
        if ours is None:
            return function(*args, **(kwargs or {}))
        self.calls[function.__name__] += 1
        return ours(*args, **(kwargs or {}))


def routed(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` run inside :class:`Route`; raises unless exactly one call was sent over."""

    def call(*args: Any, **kwargs: Any) -> Any:
        with Route() as route:
            output = function(*args, **kwargs)
        if route.calls.total() != 1:
            raise AssertionError(f"{route.calls.total()} calls were routed, expected 1: {dict(route.calls)}")
        ROUTED.update(route.calls)
        return output

    return call
