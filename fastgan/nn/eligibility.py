"""Which layers of a model :func:`fastgan.accelerate` may replace, and why not the others."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from fastgan.nn.conv import Conv2d, ConvTranspose2d
from fastgan.nn.loss import BCEWithLogitsLoss
from fastgan.nn.neighbours import Neighbour, Neighbours
from fastgan.nn.norm import BatchNormAct2d, FusedIdentity, FusedLeakyReLU, FusedReLU
from fastgan.nn.sync_norm import SyncBatchNormAct2d

SWITCHES: dict[type[nn.Module], type[nn.Module]] = {
    nn.ConvTranspose2d: ConvTranspose2d,
    nn.Conv2d: Conv2d,
    nn.BCEWithLogitsLoss: BCEWithLogitsLoss,
}
ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu"}
FUSED: dict[type[nn.Module], type[FusedIdentity]] = {nn.ReLU: FusedReLU, nn.LeakyReLU: FusedLeakyReLU}
_OURS = (*SWITCHES.values(), BatchNormAct2d, SyncBatchNormAct2d)
_FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_OUTPUT_HOOKS = ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks")


def why_not_type(module: nn.Module, is_root: bool) -> str | None:
    """The reason for a module whose exact type has no counterpart; None where nobody would expect one."""
    kind = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        return "a TorchScript module: its code is fixed"
    if isinstance(module, FusedIdentity):
        return None
    if type(module) in _OURS:
        return "is fastgan's already"
    if isinstance(module, LazyModuleMixin) and isinstance(module, (_ConvNd, _BatchNorm)):
        return "not initialised yet: run the model once, then accelerate it"
    if isinstance(module, (_ConvNd, _BatchNorm)) and parametrize.is_parametrized(module):
        return "is parametrised: its class is made by torch"
    if isinstance(module, nn.SyncBatchNorm):
        return "synchronises its statistics between processes"
    if isinstance(module, (*SWITCHES, nn.BatchNorm2d)):
        return f"{kind} is a subclass, which may compute something else"
    if isinstance(module, (_ConvNd, _BatchNorm)) or (is_root and not module._modules):
        return f"fastgan has no {kind}"
    return None


def why_not_switch(module: nn.Module) -> str | None:
    """The reason why a layer whose class has a counterpart is not switched to it, or None."""
    if "forward" in module.__dict__ or "_conv_forward" in module.__dict__:
        return "its forward is replaced on the instance"
    if isinstance(module, nn.ConvTranspose2d) and module.padding_mode != "zeros":
        return f'padding_mode is {module.padding_mode!r}, only "zeros" is defined for a transposed convolution'
    return _why_not_tensors(module)


def _why_not_tensors(module: nn.Module) -> str | None:
    """The dtypes must be ones that the kernels know; running statistics may count in integers."""
    tensors = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    for name, tensor in tensors:
        if name != "num_batches_tracked" and tensor.dtype not in _FLOATING:
            return f"{name} has dtype {tensor.dtype}".replace("torch.", "")
        if isinstance(module, nn.BCEWithLogitsLoss) and tensor.requires_grad:
            return f"{name} requires a gradient"
    return None


def fusion_of(norm: nn.Module, neighbours: Neighbours) -> Neighbour | str:
    """The activation that ``norm`` can take over, or the reason why it can take none."""
    found = neighbours.after(norm, tuple(ACTIVATIONS))
    if isinstance(found, str):
        return found
    return _why_not_pair(norm, found.layer) or _why_not_tensors(norm) or found


def _why_not_pair(norm: nn.Module, activation: nn.Module) -> str | None:
    kind = type(activation).__name__
    if any(getattr(torch.nn.modules.module, f"_global{hooks}") for hooks in _OUTPUT_HOOKS):
        return "hooks on all modules would see the activated output"
    if any(getattr(norm, hooks) for hooks in _OUTPUT_HOOKS):
        return "has hooks, which would see the activated output"
    if "forward" in norm.__dict__ or "forward" in activation.__dict__:
        return f"its forward, or that of the {kind} after it, is replaced on the instance"
    if any(getattr(activation, hooks) for hooks in (*_OUTPUT_HOOKS, "_forward_pre_hooks")):
        return f"the {kind} after it has hooks"
    return None
