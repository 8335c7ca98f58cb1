"""Accelerate an existing model in place, and undo it.

Only ``module.__class__`` is switched to the subclass of :mod:`fastgan.nn`, so parameters, buffers, hooks, optimizer
references and state_dict keys stay the very same objects. Whatever cannot be replaced without a doubt about the results
is kept as it is, with the reason.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from fastgan.nn import eligibility
from fastgan.nn.eligibility import ACTIVATIONS, SWITCHES, Fusion, walk
from fastgan.nn.norm import BatchNormAct2d, FusedIdentity

__all__ = ["Kept", "Replaced", "Report", "accelerate", "restore"]

_ORIGINALS: dict[type[nn.Module], type[nn.Module]] = {
    **{ours: torchs for torchs, ours in SWITCHES.items()},
    BatchNormAct2d: nn.BatchNorm2d,
}
# In the instance's __dict__, so that copies and pickles of an accelerated model can be restored too.
_MARK = "_fastgan_accelerated"


class Replaced(NamedTuple):
    """A layer that :func:`accelerate` replaced: its name in the model, torch's type, and what runs now."""

    name: str
    torch_type: str
    now: str


class Kept(NamedTuple):
    """A layer that :func:`accelerate` left alone: its name in the model, its type, and the reason."""

    name: str
    torch_type: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What :func:`accelerate` did; ``print(report)`` shows it as a table.

    Attributes:
        replaced: the layers that fastgan computes from now on.
        kept: convolutions, batch norms and sigmoid losses that it does not compute, each with the reason.
    """

    replaced: list[Replaced] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)

    def __str__(self) -> str:
        lines = []
        for title, rows in (("replaced", self.replaced), ("kept", self.kept)):
            lines.append(f"{title}: {len(rows)}")
            cells = [(row[0] or "(the model)", *row[1:]) for row in rows]
            widths = [max(len(cell[column]) for cell in cells) for column in (0, 1)] if cells else []
            lines += [f"  {cell[0]:{widths[0]}}  {cell[1]:{widths[1]}}  {cell[2]}" for cell in cells]
        return "\n".join(lines)


def accelerate(model: nn.Module) -> Report:
    """Replace the layers of ``model`` that fastgan computes, in place; outputs, gradients and state_dict stay the same.

    Replaced, by exact type: ``ConvTranspose2d``, ``Conv2d``, ``BCEWithLogitsLoss``, and every ``BatchNorm2d`` that is
    directly followed by ``ReLU`` or ``LeakyReLU`` in an ``nn.Sequential``: the batch norm then applies the activation
    too and :class:`fastgan.nn.FusedIdentity` stands in the activation's place, so that no key or index moves.

    Everything else stays as it is. A second call changes nothing. :func:`restore` undoes it, in copies and pickles too.

    One thing cannot be seen from a module tree: code that takes a batch norm's output from outside its Sequential (by
    iterating over it, or calling ``sequential[1]`` alone) gets it activated. :func:`restore` such a part.

    Args:
        model: any module; it may itself be one such layer.

    Returns:
        A :class:`Report`: what was replaced, what was not and why.

    Raises:
        TypeError: ``model`` is not a module, or is a TorchScript module (accelerate it before scripting it).

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.ConvTranspose2d(8, 4, 4), nn.BatchNorm2d(4), nn.ReLU())
        >>> [row.torch_type for row in accelerate(model).replaced]
        ['ConvTranspose2d', 'BatchNorm2d']
        >>> restore(model)
        >>> type(model[1]).__name__, type(model[2]).__name__
        ('BatchNorm2d', 'ReLU')
    """
    _check_model(model)
    report = Report()
    switches: list[nn.Module] = []
    fusions: list[tuple[nn.Module, Fusion]] = []
    slots = eligibility.slots_of(model)
    # All decisions are made before the first change.
    for name, module in walk(model):
        kind = type(module).__name__
        reason: str | None
        now = f"fastgan.nn.{kind}"
        if type(module) in SWITCHES:
            reason = eligibility.why_not_switch(module)
            if reason is None:
                switches.append(module)
        elif type(module) is nn.BatchNorm2d:
            reason, fusion = eligibility.fusion_of(module, slots)
            if fusion is not None:
                fusions.append((module, fusion))
                now = f"fastgan.nn.BatchNormAct2d with the {type(fusion.activation).__name__} in slot {fusion.slot}"
        elif (reason := eligibility.why_not_type(module, is_root=module is model)) is None:
            continue
        if reason is None:
            report.replaced.append(Replaced(name, kind, now))
        else:
            report.kept.append(Kept(name, kind, reason))
    for module in switches:
        module.__class__ = SWITCHES[type(module)]
        setattr(module, _MARK, True)
    for module, fusion in fusions:
        _fuse(module, fusion)
    return report


def restore(model: nn.Module) -> None:
    """Undo everything that :func:`accelerate` did in ``model``, in place, and nothing else.

    Layers that were built as fastgan.nn's stay.

    Args:
        model: an accelerated model, or a copy of one. One that was never accelerated stays as it is.

    Raises:
        TypeError: ``model`` is not a module, or is a TorchScript module.
        ValueError: a batch norm and the activation it took over are no longer neighbours in a Sequential of ``model``
            (``model`` is only a part of what was accelerated, or was edited since); nothing is changed then.
    """
    _check_model(model)
    marked = {id(module): (name, module) for name, module in walk(model) if _MARK in module.__dict__}
    pairs = _pairs(model, set(marked))
    paired = {id(half) for norm, fusion in pairs for half in (norm, fusion.sequential._modules[fusion.slot])}
    for key, (name, module) in marked.items():
        if type(module) in (BatchNormAct2d, FusedIdentity) and key not in paired:
            raise ValueError(
                f"{name or 'model'} ({type(module).__name__}) is not beside the other half of its batch norm + "
                "activation pair: restore the whole model that was accelerated"
            )
    for norm, fusion in pairs:
        # the original was out of reach of model.train() and model.eval()
        fusion.activation.training = fusion.sequential._modules[fusion.slot].training
        fusion.sequential._modules[fusion.slot] = fusion.activation
        del norm.activation, norm.negative_slope
    for _, module in marked.values():
        if type(module) in _ORIGINALS:
            delattr(module, _MARK)
            module.__class__ = _ORIGINALS[type(module)]


def _pairs(model: nn.Module, marked: set[int]) -> list[tuple[BatchNormAct2d, Fusion]]:
    """Every batch norm that :func:`accelerate` fused, with the activation to put back after it."""
    pairs: list[tuple[BatchNormAct2d, Fusion]] = []
    for sequential in (module for _, module in walk(model) if isinstance(module, nn.Sequential)):
        children = list(sequential._modules.items())
        for (_, norm), (slot, placeholder) in itertools.pairwise(children):
            if not isinstance(norm, BatchNormAct2d) or not isinstance(placeholder, FusedIdentity):
                continue
            if {id(norm), id(placeholder)} <= marked:
                original: Any = placeholder.original
                pairs.append((norm, Fusion(sequential, slot, original[0])))
    return pairs


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "model must not be a TorchScript module: its code is fixed; accelerate the model before scripting it"
        )


def _fuse(norm: Any, fusion: Fusion) -> None:
    activation = fusion.activation
    norm.__class__ = BatchNormAct2d
    norm.activation = ACTIVATIONS[type(activation)]
    norm.negative_slope = activation.negative_slope if isinstance(activation, nn.LeakyReLU) else 0.01
    placeholder = FusedIdentity(activation)
    placeholder.training = activation.training
    for module in (norm, placeholder):
        setattr(module, _MARK, True)
    fusion.sequential._modules[fusion.slot] = placeholder
