"""Which layers of a model :func:`fastgan.accelerate` may replace, and why not the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from fastgan.nn.conv import Conv2d, ConvTranspose2d
from fastgan.nn.loss import BCEWithLogitsLoss
from fastgan.nn.norm import BatchNormAct2d, FusedIdentity

SWITCHES: dict[type[nn.Module], type[nn.Module]] = {
    nn.ConvTranspose2d: ConvTranspose2d,
    nn.Conv2d: Conv2d,
    nn.BCEWithLogitsLoss: BCEWithLogitsLoss,
}
ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.LeakyReLU: "leaky_relu"}
_OURS = (*SWITCHES.values(), BatchNormAct2d, FusedIdentity)
_FLOATING = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
Slots = dict[int, list[tuple[nn.Module, str]]]
_OUTPUT_HOOKS = ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks")


class Fusion(NamedTuple):
    """A batch norm's neighbour: the activation in ``slot`` of ``sequential``."""

    sequential: nn.Sequential
    slot: str
    activation: nn.Module


def walk(model: nn.Module, name: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, nn.Module]]:
    """Every module once, under its first name; does not enter TorchScript modules."""
    seen = set() if seen is None else seen
    if id(model) in seen:
        return
    seen.add(id(model))
    yield name, model
    if not isinstance(model, torch.jit.ScriptModule):
        for key, child in model._modules.items():
            if child is not None:
                yield from walk(child, f"{name}.{key}" if name else key, seen)


def slots_of(model: nn.Module) -> Slots:
    """For the id of each child: every (parent, name) that holds it."""
    slots: Slots = {}
    for _, parent in walk(model):
        for name, child in parent._modules.items():
            slots.setdefault(id(child), []).append((parent, name))
    return slots


def why_not_type(module: nn.Module, is_root: bool) -> str | None:
    """The reason for a module whose exact type has no counterpart; None where nobody would expect one."""
    kind = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        return "a TorchScript module: its code is fixed; accelerate the model before scripting it"
    if type(module) in _OURS:
        return None if isinstance(module, FusedIdentity) else "is fastgan's already"
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


def fusion_of(norm: nn.Module, slots: Slots) -> tuple[str | None, Fusion | None]:
    """(None, the activation that ``norm`` can take over) or (the reason why it can take none, None)."""
    places = slots.get(id(norm), [])
    if len(places) > 1:
        return f"occurs {len(places)} times in the model", None
    sequential, name = places[0] if places else (None, "")
    if not isinstance(sequential, nn.Sequential):
        return "no activation directly after it in a Sequential", None
    if not _is_plain(sequential):
        return f"the {type(sequential).__name__} around it has a forward of its own", None
    names = list(sequential._modules)
    position = names.index(name) + 1
    activation = sequential._modules[names[position]] if position < len(names) else None
    if activation is None:
        return "no activation directly after it in a Sequential", None
    if type(activation) not in ACTIVATIONS:
        return f"{type(activation).__name__} after it is neither ReLU nor LeakyReLU", None
    reason = _why_not_pair(norm, activation) or _why_not_tensors(norm)
    return (reason, None) if reason else (None, Fusion(sequential, names[position], activation))


def _why_not_pair(norm: nn.Module, activation: nn.Module) -> str | None:
    kind = type(activation).__name__
    if any(getattr(norm, hooks) for hooks in _OUTPUT_HOOKS):
        return "has hooks, which would see the activated output"
    if "forward" in norm.__dict__ or "forward" in activation.__dict__:
        return f"its forward, or that of the {kind} after it, is replaced on the instance"
    if any(getattr(activation, hooks) for hooks in (*_OUTPUT_HOOKS, "_forward_pre_hooks")):
        return f"the {kind} after it has hooks"
    return None


def _is_plain(sequential: nn.Sequential) -> bool:
    """Whether calling ``sequential`` runs its children in order and nothing else."""
    methods = ("forward", "__iter__", "__call__")
    inherited = all(getattr(type(sequential), name) is getattr(nn.Sequential, name) for name in methods)
    return inherited and "forward" not in sequential.__dict__
