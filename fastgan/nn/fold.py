"""Fold batch norms into the convolutions before them, for inference."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from fastgan.nn.conv import Conv2d, ConvTranspose2d
from fastgan.nn.neighbours import Neighbours, walk
from fastgan.nn.norm import BatchNormAct2d
from fastgan.nn.surgery import accelerate, check_model, is_accelerated, restore
from fastgan.nn.sync_norm import SyncBatchNormAct2d

__all__ = ["fold_batch_norm"]

_CONVOLUTIONS = (Conv2d, ConvTranspose2d, nn.Conv2d, nn.ConvTranspose2d)
_NORMS = (BatchNormAct2d, SyncBatchNormAct2d, nn.BatchNorm2d, nn.SyncBatchNorm)


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """A copy of ``model``, which is in eval mode, with batch norms folded into the convolutions before them.

    In eval mode a batch norm is ``y * scale + shift`` per channel, ``scale = weight / sqrt(running_var + eps)``,
    ``shift = bias - running_mean * scale``; so the convolution's weight is multiplied by ``scale`` along its output
    channels and its bias becomes ``bias * scale + shift``. The activation of a :class:`fastgan.nn.BatchNormAct2d` goes
    into a convolution of fastgan's (not with a negative slope below 0); behind one of torch's it stays in the norm's
    place as ``nn.ReLU`` or ``nn.LeakyReLU``. Otherwise ``nn.Identity`` is left. Outputs are the same up to rounding.

    Folded is every ``Conv2d`` and ``ConvTranspose2d`` (torch's or fastgan's) that is directly followed by a
    ``BatchNorm2d`` or ``BatchNormAct2d`` (or their synchronised forms) with running statistics, in the sense of
    :func:`fastgan.accelerate`: in an ``nn.Sequential``, or in one straight line of a ``forward`` that torch.fx can
    trace, in the one place of its code that names them. Where other code uses the convolution's output, parameters or
    the layers themselves, the pair stays; so does one whose product overflows its dtype. What has hooks (the old
    spectral_norm, pruning), parametrisations or a ``forward`` of its own stays, and so does a convolution with an
    activation of its own.
    ``print(model)`` shows what is left. An accelerated model comes back accelerated.

    ``torch.nn.utils.fusion.fuse_conv_bn_eval(conv, norm)`` reads the norm's numbers and cannot see an activation: with
    a BatchNormAct2d it returns the convolution *without* the activation. Use this function instead, or put the
    activation back yourself.

    Args:
        model: any module with all of its parts in eval mode; it is not changed.

    Returns:
        A deep copy; the folded norms' keys are gone from its state_dict, and a folded convolution has a bias.

    Raises:
        TypeError: ``model`` is not a module, or is a TorchScript module.
        ValueError: a part of it is in training mode, or a norm after a convolution has no running statistics.
        RuntimeError: torch's, where ``copy.deepcopy`` cannot copy the model: after a forward with gradients the old
            ``weight_norm``, ``spectral_norm`` and pruning leave a tensor with a history as an attribute.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> fold_batch_norm(model)
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
          (1): Identity()
          (2): ReLU()
        )
    """
    check_model(model)
    for name, module in walk(model):
        if module.training:
            raise ValueError(f"{name or 'model'} is in training mode: batch norms fold only after model.eval()")
    folded = copy.deepcopy(model)
    accelerated = is_accelerated(folded)
    restore(folded)
    neighbours = Neighbours(folded, _CONVOLUTIONS, modes=(False,))
    pairs = []
    for name, convolution in walk(folded):
        if type(convolution) not in _CONVOLUTIONS:
            continue
        found = neighbours.after(convolution, _NORMS)
        if isinstance(found, str) or not _is_untouched(convolution) or not _is_untouched(found.layer):
            continue
        if found.layer.running_mean is None or found.layer.running_var is None:
            raise ValueError(
                f"the {type(found.layer).__name__} after {name or 'model'} has no running statistics to fold"
            )
        pairs.append((convolution, found))
    for convolution, found in pairs:
        if _fold(convolution, found.layer):
            found.parent._modules[found.slot] = _what_is_left(found.layer, convolution).eval()
    if accelerated:
        accelerate(folded)
    return folded


def _is_untouched(layer: nn.Module) -> bool:
    """Whether calling ``layer`` runs its class's forward and nothing else; of a convolution, that and no activation."""
    if isinstance(layer, (Conv2d, ConvTranspose2d)) and layer.activation != "none":
        return False
    hooks = ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_backward_pre_hooks")
    return not any(getattr(layer, name) for name in hooks) and not {"forward", "_conv_forward"} & set(layer.__dict__)


@torch.no_grad()
def _fold(convolution: Any, norm: Any) -> bool:
    """Computed in float64 and rounded once; False, and nothing is changed, where a product overflows."""
    weight, bias = convolution.weight, convolution.bias
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = (0.0 if bias is None else bias.double()) - norm.running_mean.double()
    shift = shift * scale + (0.0 if norm.bias is None else norm.bias.double())
    if convolution.transposed:  # [C_in, C_out / groups, kH, kW], group by group along C_in
        groups = weight.double().unflatten(0, (convolution.groups, -1))
        product = (groups * scale.view(convolution.groups, 1, -1, 1, 1)).flatten(0, 1)
    else:
        product = weight.double() * scale.view(-1, 1, 1, 1)
    like = torch.empty_like(weight).copy_(product)  # dtype and memory format
    shift = shift.to(weight.dtype if bias is None else bias.dtype)
    if not (like.isfinite().all() and shift.isfinite().all()):
        return False
    convolution.weight = nn.Parameter(like, weight.requires_grad)
    convolution.bias = nn.Parameter(shift, weight.requires_grad if bias is None else bias.requires_grad)
    return True


def _what_is_left(norm: nn.Module, convolution: nn.Module) -> nn.Module:
    """The norm's activation, unless the convolution before it can take it."""
    if not isinstance(norm, BatchNormAct2d) or norm.activation == "none":
        return nn.Identity()
    relu = norm.activation == "relu"
    if isinstance(convolution, (Conv2d, ConvTranspose2d)) and (relu or norm.negative_slope >= 0):
        convolution._set_activation(norm.activation, norm.negative_slope)
        return nn.Identity()
    return nn.ReLU() if relu else nn.LeakyReLU(norm.negative_slope)
