"""Drop-in batch norm with a fused activation; see :func:`fastgan.functional.batch_norm_act` for the arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fastgan import functional
from fastgan.ops.common import activation as _activation

__all__ = ["BatchNormAct2d", "FusedIdentity"]


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

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Args: input ``[N, C, H, W]``."""
        self._check_input_dim(input)
        tracks = self.training and self.track_running_stats
        momentum = 0.0 if self.momentum is None else self.momentum
        if tracks and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:  # cumulative average
                momentum = 1.0 / float(self.num_batches_tracked)
        # eval mode without buffers normalises by the batch, as torch does
        by_batch = self.training or (self.running_mean is None and self.running_var is None)
        use_buffers = not self.training or self.track_running_stats
        return functional.batch_norm_act(
            input,
            self.running_mean if use_buffers else None,
            self.running_var if use_buffers else None,
            self.weight,
            self.bias,
            by_batch,
            momentum,
            self.eps,
            self.activation,
            self.negative_slope,
        )


class FusedIdentity(nn.Identity):
    """Stands where an activation was that :func:`fastgan.accelerate` moved into the batch norm before it, so that keys
    and indices do not move; :func:`fastgan.restore` puts the activation back."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        # in a tuple, so that it is not registered as a child
        self.original = (original,)

    def extra_repr(self) -> str:
        """Which activation it stands for."""
        return f"fused: {self.original[0]}"
