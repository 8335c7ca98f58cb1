"""Accelerate an existing model in place, and undo it.

Only ``module.__class__`` is switched to the subclass of :mod:`fastgan.nn`, so parameters, buffers, hooks, optimizer
references and state_dict keys stay the very same objects. Whatever cannot be replaced without a doubt about the results
is kept as it is, with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from fastgan.nn import eligibility
from fastgan.nn.conv import Conv2d, ConvTranspose2d
from fastgan.nn.eligibility import ACTIVATIONS, FUSED, SWITCHES
from fastgan.nn.neighbours import Neighbour, Neighbours, walk
from fastgan.nn.norm import BatchNormAct2d, FusedIdentity

__all__ = ["Kept", "Replaced", "Report", "accelerate", "restore"]

_ORIGINALS: dict[type[nn.Module], type[nn.Module]] = {
    **{ours: torchs for torchs, ours in SWITCHES.items()},
    BatchNormAct2d: nn.BatchNorm2d,
}
# In the instance's __dict__, so that copies and pickles of an accelerated model can be restored too. True, or in a
# FusedIdentity (its batch norm,): in a tuple, so that it is not registered as a child.
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
    directly followed by a ``ReLU`` or ``LeakyReLU`` module of the same parent: the batch norm then applies the
    activation too and :class:`fastgan.nn.FusedIdentity` stands in the activation's place, so that no key or index
    moves. The two follow each other in an ``nn.Sequential``, or in the Python code of the parent's ``forward``. There
    torch.fx must be able to trace that forward, in training and eval mode, and the source of the class must be at hand
    and name both in one place only: ``self.act(self.norm(...))``, or ``y = self.norm(...)`` directly before
    ``y = self.act(y)`` or ``return self.act(y)``. So no flag, argument or other method runs one without the other.
    The code of the modules further out must only call what is between them and the pair, and a plain list may not hold
    one of the two; hooks on either, or on all modules, keep the pair too. What is replaced is still torch's layer to
    ``isinstance``, though not to ``type(layer) is``.

    Everything else stays as it is: an activation that several layers share (``self.relu`` in a ResNet's block) or that
    is a function call (``F.relu``) is code, which is not changed. A second call changes nothing. :func:`restore` undoes
    it, in copies and pickles too.

    Tracing runs the forwards on a copy of the model without data. Random numbers, hooks and the gradient mode stay
    untouched; what a forward does to its class, to global variables or through a closure over the original, it does.
    No other thread may call a module meanwhile (torch.fx patches ``nn.Module``).

    What cannot be seen: access by a computed name (``getattr(self, "b" + "n")``, ``get_submodule``) or by a walk over
    ``modules()``, code outside the model that takes a batch norm's output past its parent (``model.main[1](x)``,
    ``model.main[:2]``), and what is changed in the model afterwards. Such code gets the output activated;
    :func:`restore` the part that it uses. TorchScript (``torch.jit.script``, ``torch.jit.trace``) does not work on
    fastgan's layers: :func:`restore` the model first.

    Args:
        model: any module; it may itself be one such layer.

    Returns:
        A :class:`Report`: what was replaced, what was not and why.

    Raises:
        TypeError: ``model`` is not a module, or is a TorchScript module.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.ConvTranspose2d(8, 4, 4), nn.BatchNorm2d(4), nn.ReLU())
        >>> [row.torch_type for row in accelerate(model).replaced]
        ['ConvTranspose2d', 'BatchNorm2d']
        >>> restore(model)
        >>> type(model[1]).__name__, type(model[2]).__name__
        ('BatchNorm2d', 'ReLU')
    """
    check_model(model)
    report = Report()
    switches: list[nn.Module] = []
    fusions: list[tuple[nn.Module, Neighbour]] = []
    neighbours = Neighbours(model, (nn.BatchNorm2d,), modes=(True, False))
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
            fusion = eligibility.fusion_of(module, neighbours)
            reason = fusion if isinstance(fusion, str) else None
            if isinstance(fusion, Neighbour):
                fusions.append((module, fusion))
                now = f"fastgan.nn.BatchNormAct2d with the {type(fusion.layer).__name__} in slot {fusion.slot}"
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
        ValueError: of a batch norm and the activation it took over only one is in ``model`` (``model`` is only a part
            of what was accelerated, or was edited since); a convolution was given an activation since; nothing is
            changed then.
    """
    check_model(model)
    marked = {id(module): (name, module) for name, module in walk(model) if _MARK in module.__dict__}
    pairs = _pairs(model)
    paired = {id(half) for norm, fused in pairs for half in (norm, fused.layer)}
    for key, (name, module) in marked.items():
        if isinstance(module, (BatchNormAct2d, FusedIdentity)) and key not in paired:
            raise ValueError(
                f"{name or 'model'} ({type(module).__name__}) is without the other half of its batch norm + "
                "activation pair: restore the whole model that was accelerated"
            )
        if isinstance(module, (Conv2d, ConvTranspose2d)) and module.activation != "none":
            raise ValueError(
                f"{name or 'model'} ({type(module).__name__}) was given activation={module.activation!r} after it was "
                'accelerated, which torch\'s layer does not have: set it to "none" and put the activation behind it'
            )
    for _, fused in pairs:
        original: Any = fused.layer.original
        # the original was out of reach of model.train() and model.eval()
        original[0].training = fused.layer.training
        fused.parent._modules[fused.slot] = original[0]
    for _, module in marked.values():
        delattr(module, _MARK)
        if isinstance(module, BatchNormAct2d):
            del module.activation, module.negative_slope
        if type(module) in _ORIGINALS:  # a norm that was made to synchronise since goes on, without activation
            module.__class__ = _ORIGINALS[type(module)]


def _pairs(model: nn.Module) -> list[tuple[nn.Module, Neighbour]]:
    """Every batch norm that :func:`accelerate` fused, with the place where its activation was."""
    modules = [module for _, module in walk(model)]
    inside = {id(module) for module in modules}
    places = ((parent, slot, child) for parent in modules for slot, child in parent._modules.items())
    return [
        (child.__dict__[_MARK][0], Neighbour(parent, slot, child))
        for parent, slot, child in places
        if isinstance(child, FusedIdentity) and _MARK in child.__dict__ and id(child.__dict__[_MARK][0]) in inside
    ]


def is_accelerated(model: nn.Module) -> bool:
    """Whether :func:`accelerate` replaced anything in ``model``."""
    return any(_MARK in module.__dict__ for _, module in walk(model))


def check_model(model: nn.Module) -> None:
    """Raise TypeError unless ``model`` is a module that can be changed."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("model must not be a TorchScript module: its code is fixed")


def _fuse(norm: Any, fusion: Neighbour) -> None:
    activation = fusion.layer
    norm.__class__ = BatchNormAct2d
    norm.activation = ACTIVATIONS[type(activation)]
    norm.negative_slope = activation.negative_slope if isinstance(activation, nn.LeakyReLU) else 0.01
    placeholder = FUSED[type(activation)](activation)
    setattr(norm, _MARK, True)
    setattr(placeholder, _MARK, (norm,))
    fusion.parent._modules[fusion.slot] = placeholder
