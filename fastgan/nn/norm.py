"""Drop-in batch norm with a fused activation; see :func:`fastgan.functional.batch_norm_act` for the arithmetic."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fastgan import functional
from fastgan.nn.tracing import leaf
from fastgan.ops.common import activation as _activation

__all__ = ["BatchNormAct2d", "FusedIdentity"]

_TORCHS_CONVERTER = inspect.unwrap(nn.SyncBatchNorm.convert_sync_batchnorm).__code__


class BatchNormAct2d(nn.BatchNorm2d):
    """:class:`torch.nn.BatchNorm2d` followed by an activation, in one op.

    Same constructor as torch's plus two keyword arguments; same parameters, buffers, state_dict keys and initial
    values, so checkpoints of BatchNorm2d load and save unchanged.

    Args:
        activation: "relu", "leaky_relu" or "none".
        negative_slope: slope of "leaky_relu" for inputs <= 0; torch's default 0.01 (DCGAN uses 0.2).

    Shape:
        ``[N, C, H, W]`` -> ``[N, C, H, W]``, same memory format.

    Raises:
        ValueError: unknown activation; an input that is not 4-D; one value per channel in training.

    Example:
        >>> import torch
        >>> BatchNormAct2d(4, activation="leaky_relu", negative_slope=0.2)
        BatchNormAct2d(4, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True, \
activation=leaky_relu, negative_slope=0.2)
    """

    activation: str
    negative_slope: float

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "relu",
        negative_slope: float = 0.01,
        **kwargs: Any,  # bias=, from torch 2.13 on
    ) -> None:
        _activation.parse(activation)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, **kwargs)
        self.activation = activation
        self.negative_slope = negative_slope

    def extra_repr(self) -> str:
        """torch's line, then the activation."""
        slope = f", negative_slope={self.negative_slope}" if self.activation == "leaky_relu" else ""
        return f"{super().extra_repr()}, activation={self.activation}{slope}"

    @leaf
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Args: input ``[N, C, H, W]``."""
        self._check_input_dim(input)
        running_mean, running_var, momentum = self._begin()
        # eval mode without buffers normalises by the batch, as torch does
        by_batch = self.training or (self.running_mean is None and self.running_var is None)
        return self._batch_norm_act(input, running_mean, running_var, by_batch, momentum)

    def _begin(self) -> tuple[torch.Tensor | None, torch.Tensor | None, float]:
        """Count the batch, in training; (running mean, running variance, momentum) for it."""
        tracks = self.training and self.track_running_stats
        momentum = 0.0 if self.momentum is None else self.momentum
        if tracks and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # cumulative average
                momentum = 1.0 / float(self.num_batches_tracked)
        use_buffers = not self.training or self.track_running_stats
        return *((self.running_mean, self.running_var) if use_buffers else (None, None)), momentum

    def _batch_norm_act(
        self,
        input: torch.Tensor,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        by_batch: bool,
        momentum: float,
    ) -> torch.Tensor:
        return functional.batch_norm_act(
            input,
            running_mean,
            running_var,
            self.weight,
            self.bias,
            by_batch,
            momentum,
            self.eps,
            self.activation,
            self.negative_slope,
        )

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """torch's, but :meth:`torch.nn.SyncBatchNorm.convert_sync_batchnorm` gets an error: it asks a batch norm for
        its children after it has built a layer without the activation to take its place."""
        if self.activation != "none" and sys._getframe(1).f_code is _TORCHS_CONVERTER:
            raise TypeError(
                f"torch.nn.SyncBatchNorm.convert_sync_batchnorm would lose the {self.activation} of a "
                f"{type(self).__name__}; use fastgan.nn.convert_sync_batchnorm"
            )
        return super().named_children()


class FusedIdentity(nn.Identity):
    """Stands where an activation was that :func:`fastgan.accelerate` moved into the batch norm before it, so that keys
    and indices do not move; :func:`fastgan.restore` puts the activation back."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        for name in ("training", "inplace", "negative_slope"):  # code may ask for them
            if hasattr(original, name):
                setattr(self, name, getattr(original, name))
        # in a tuple, so that it is not registered as a child
        self.original = (original,)

    def extra_repr(self) -> str:
        """Which activation it stands for."""
        return f"fused: {self.original[0]}"


class FusedReLU(FusedIdentity, nn.ReLU):
    """Stands for an ``nn.ReLU``, and is one to code that asks."""


class FusedLeakyReLU(FusedIdentity, nn.LeakyReLU):
    """Stands for an ``nn.LeakyReLU``, and is one to code that asks."""
