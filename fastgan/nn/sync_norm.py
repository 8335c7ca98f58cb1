"""Batch norm with a fused activation whose statistics are those of all processes, and the conversion to it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastgan import functional
from fastgan.nn.norm import BatchNormAct2d

__all__ = ["SyncBatchNormAct2d", "convert_sync_batchnorm"]


class SyncBatchNormAct2d(BatchNormAct2d):
    """:class:`torch.nn.SyncBatchNorm` followed by an activation, in one op; on CPU tensors (gloo) too.

    Same constructor as torch's plus two keyword arguments; same parameters, buffers and state_dict keys. In training
    the statistics are those of the batches of all ranks, which may differ in size and may be empty. In eval mode, with
    no process group initialised, or with one rank it is :class:`BatchNormAct2d`.

    It is no subclass of :class:`torch.nn.SyncBatchNorm`, because DistributedDataParallel refuses those on CPUs.

    Args:
        process_group: the ranks to synchronise with; None means all.
        activation: "relu", "leaky_relu" or "none".
        negative_slope: slope of "leaky_relu" for inputs <= 0.

    Shape:
        ``[N, C, ...]`` -> ``[N, C, ...]``, same memory format.

    Raises:
        ValueError: unknown activation; an input with less than 2 dimensions; in training one value per channel in the
            whole process group.

    Example:
        >>> import torch
        >>> SyncBatchNormAct2d(4, activation="leaky_relu", negative_slope=0.2)(torch.ones(2, 4, 3, 3)).shape
        torch.Size([2, 4, 3, 3])
    """

    # What a torch batch norm of this class computes: convert_sync_batchnorm only switches the class.
    activation = "none"
    negative_slope = 0.01
    process_group: Any = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str = "relu",
        negative_slope: float = 0.01,
        **kwargs: Any,  # bias=, from torch 2.13 on
    ) -> None:
        super().__init__(
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            device,
            dtype,
            activation=activation,
            negative_slope=negative_slope,
            **kwargs,
        )
        self.process_group = process_group

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")

    def _batch_norm_act(
        self,
        input: torch.Tensor,
        running_mean: torch.Tensor | None,
        running_var: torch.Tensor | None,
        by_batch: bool,
        momentum: float,
    ) -> torch.Tensor:
        if not self.training:
            return super()._batch_norm_act(input, running_mean, running_var, by_batch, momentum)
        return functional.sync_batch_norm_act(
            input,
            running_mean,
            running_var,
            self.weight,
            self.bias,
            momentum,
            self.eps,
            self.activation,
            self.negative_slope,
            self.process_group,
        )


_CONVERTIBLE = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    BatchNormAct2d,
    SyncBatchNormAct2d,
)


def convert_sync_batchnorm(module: nn.Module, process_group: Any = None) -> nn.Module:
    """Make every batch norm of ``module`` a :class:`SyncBatchNormAct2d`, in place; activations stay.

    For fastgan's layers what :meth:`torch.nn.SyncBatchNorm.convert_sync_batchnorm` is for torch's, and for torch's too
    (they become layers with the activation "none", which also run on CPUs). Only the class is switched: parameters,
    buffers, hooks, mode and state_dict keys stay the very same objects, so optimizers may be built before or after.
    Convert before wrapping in DistributedDataParallel. :func:`fastgan.restore` works on the result: it puts activations
    back, and the layers go on synchronising.

    Args:
        module: a model, or a batch norm.
        process_group: the ranks to synchronise with; None means all.

    Returns:
        ``module`` itself.

    Raises:
        TypeError: ``module`` is not a module, or a batch norm in it may compute something else: a subclass, a
            parametrised or lazy one, or one whose forward is replaced on the instance; nothing is changed then.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4, activation="relu"))
        >>> type(convert_sync_batchnorm(model)[1]).__name__, model[1].activation
        ('SyncBatchNormAct2d', 'relu')
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    norms: list[Any] = [(name, child) for name, child in module.named_modules() if isinstance(child, _BatchNorm)]
    for name, norm in norms:
        if type(norm) not in _CONVERTIBLE:
            raise TypeError(
                f"{name or 'module'} cannot be converted: {type(norm).__name__} is a subclass of a batch norm, which "
                "may compute something else"
            )
        if "forward" in norm.__dict__:
            raise TypeError(f"{name or 'module'} cannot be converted: its forward is replaced on the instance")
    for _, norm in norms:
        norm.__class__ = SyncBatchNormAct2d
        norm.process_group = process_group
    return module
