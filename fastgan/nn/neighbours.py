"""Which layer always, and only, runs on the output of another: what surgery on two layers at once rests on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from fastgan.nn import code, graphs
from fastgan.nn.sequential import FusedSequential

Slots = dict[int, list[tuple[nn.Module, str]]]
_NOTHING = "no activation directly after it in a Sequential"
_NOTHING_IN = "no activation directly after it in"
_MODULES_OWN = frozenset(vars(nn.Module()))
_CALLED_ACTIVATIONS = ("relu", "relu_", "leaky_relu", "leaky_relu_")


class Neighbour(NamedTuple):
    """The layer in ``slot`` of ``parent``, which is also the parent of the layer before it."""

    parent: nn.Module
    slot: str
    layer: nn.Module


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


class Neighbours:
    """How the layers of one model follow each other, in its Sequentials and in the code of its forwards.

    Args:
        model: the model.
        kinds: exact types of the layers that will be asked about.
        modes: values of ``training`` to look at.
    """

    def __init__(self, model: nn.Module, kinds: tuple[type[nn.Module], ...], modes: tuple[bool, ...]) -> None:
        self._slots: Slots = {}
        self._lists = _lists_of(model)
        for _, parent in walk(model):
            for name, child in parent._modules.items():
                self._slots.setdefault(id(child), []).append((parent, name))
        coded = [
            module
            for _, module in walk(model)
            if graphs.has_own_forward(module)
            and not _is_plain_sequential(module)
            and any(type(part) in kinds for _, part in walk(module))
        ]
        self._graphs = graphs.graphs_of(coded, modes)

    def after(self, layer: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Neighbour | str:
        """The layer after ``layer``, of one of the exact types ``kinds``, or why there is none to rely on.

        Both have the same parent, so that whoever calls it runs both. Graphs of modules further out can only object.
        """
        places = self._slots.get(id(layer), [])
        if len(places) > 1:
            return f"occurs {len(places)} times in the model"
        if not places:
            return _NOTHING
        parent, name = places[0]
        if _is_plain_sequential(parent):
            found = self._in_sequential(layer, parent, name, kinds)
        else:
            found = self._why_no_code(layer, parent) or self._in_code(layer, parent, name, kinds)
        return found if isinstance(found, str) else self._why_taken_apart(layer, parent, name, found) or found

    def _in_sequential(
        self, layer: nn.Module, parent: nn.Module, name: str, kinds: tuple[type[nn.Module], ...]
    ) -> Neighbour | str:
        names = list(parent._modules)
        position = names.index(name) + 1
        follower = parent._modules[names[position]] if position < len(names) else None
        if follower is None:
            return _NOTHING
        if type(follower) not in kinds:
            return _other_kind(follower, kinds)
        seen = self._seen_after(layer)
        if isinstance(seen, str):
            return seen
        if seen not in (None, follower):
            return "code outside its Sequential takes its output"
        if len(self._slots[id(follower)]) == 1 and (where := self._other_input(layer, follower)):
            return f"the {type(follower).__name__} after it has other inputs too, in {where}"
        return Neighbour(parent, names[position], follower)

    def _why_no_code(self, layer: nn.Module, parent: nn.Module) -> str | None:
        """Why the forward of ``parent`` tells nothing about ``layer``, or None."""
        kind = type(parent).__name__
        if graphs.is_container(parent):
            return f"{_NOTHING}, and the {kind} around it has no forward"
        if "forward" in parent.__dict__:
            return f"the forward of the {kind} around it is replaced on the instance"
        if type(parent).__call__ is not nn.Module.__call__:
            return f"the {kind} around it has a __call__ of its own"
        if id(parent) in self._graphs.failures:
            return f"{kind}.forward cannot be traced: {self._graphs.failures[id(parent)]}"
        if not any(call.caller is parent for call in self._graphs.calls.get(id(layer), [])):
            return f"{kind}.forward does not call it"
        return None

    def _in_code(
        self, layer: nn.Module, parent: nn.Module, name: str, kinds: tuple[type[nn.Module], ...]
    ) -> Neighbour | str:
        follower = self._seen_after(layer)
        if not isinstance(follower, nn.Module):
            return follower or _NOTHING
        if type(follower) not in kinds:
            return _other_kind(follower, kinds)
        what = f"the {type(follower).__name__} after it"
        if where := self._other_input(layer, follower):
            return f"{what} has other inputs too, in {where}"
        places = self._slots[id(follower)]
        if len(places) > 1 or places[0][0] is not parent:
            return f"{what} is not {type(parent).__name__}'s alone"
        slot = places[0][1]
        if not code.in_one_line(type(parent), name, slot):
            return f"{type(parent).__name__} does not run it and {what} in one straight line, in one place of its code"
        return Neighbour(parent, slot, follower)

    def _why_taken_apart(self, layer: nn.Module, parent: nn.Module, name: str, found: Neighbour) -> str | None:
        """Why code further out may use the two layers apart, on a path that no graph shows, or None."""
        for holder, key in self._lists:
            if {id(layer), id(found.layer)} & self._lists[holder, key]:
                return f"{holder}.{key} holds it, or the {type(found.layer).__name__} after it, too"
        inner, names = {id(parent)}, {name, found.slot}
        pending = list(self._slots.get(id(parent), []))
        while pending:
            outer, key = pending.pop()
            kind = type(outer).__name__
            if id(outer) in inner:
                continue
            inner.add(id(outer))
            pending += self._slots.get(id(outer), [])
            if "forward" in outer.__dict__:
                return f"the forward of the {kind} further out is replaced on the instance"
            if _is_plain_sequential(outer) or graphs.is_container(outer) or not graphs.has_own_forward(outer):
                names.add(key)
                continue
            if graphs.is_container(outer.get_submodule(key)):
                if id(outer) in self._graphs.failures:
                    return (
                        f"{kind}.forward, which takes {key} apart, cannot be traced: {self._graphs.failures[id(outer)]}"
                    )
            elif (calls := code.only_calls(type(outer), key)) is not True:
                return f"the code of {kind} " + ("is not at hand" if calls is None else f"does not only call {key}")
            if code.reaches_into(type(outer), names) or code.opens_elements(type(outer), key):
                return f"the code of {kind} reaches into its parts"
            names.add(key)
        return None

    def _seen_after(self, layer: nn.Module) -> nn.Module | str | None:
        """What takes the output of ``layer`` in every graph: one layer, or a reason; None if no graph has it."""
        followers: list[nn.Module] = []
        if (reader := self._graphs.tensors.get(id(layer))) is not None:
            return f"its parameters or buffers are used in {type(reader).__name__}.forward"
        for caller, node in self._graphs.calls.get(id(layer), []):
            where = f"{type(caller).__name__}.forward"
            if len(node.users) != 1:
                return f"its output is used {len(node.users)} times in {where}"
            (user,) = node.users
            follower = graphs.called(caller, user)
            if follower is None or user.args != (node,) or user.kwargs:
                name = user.target if isinstance(user.target, str) else user.target.__name__
                is_activation = follower is None and name in _CALLED_ACTIVATIONS
                return (
                    f"the {name} after it is a function call in {where}" if is_activation else f"{_NOTHING_IN} {where}"
                )
            followers.append(follower)
        if len({id(follower) for follower in followers}) > 1:
            return "different layers follow it"
        return followers[0] if followers else None

    def _other_input(self, layer: nn.Module, follower: nn.Module) -> str | None:
        """Where ``follower`` runs on something else than the output of ``layer``, or None."""
        for caller, node in self._graphs.calls.get(id(follower), []):
            if len(node.args) != 1 or graphs.called(caller, node.args[0]) is not layer:
                return f"{type(caller).__name__}.forward"
        return None


def _lists_of(model: nn.Module) -> dict[tuple[str, str], set[int]]:
    """For each plain list, tuple, set or dictionary on a module of ``model``: (type of the module, attribute) and the
    ids of the modules in it."""
    found: dict[tuple[str, str], set[int]] = {}
    for _, module in walk(model):
        for key, value in vars(module).items():
            if key not in _MODULES_OWN and not isinstance(value, nn.Module) and (ids := set(_ids_in(value))):
                found.setdefault((type(module).__name__, key), set()).update(ids)
    return found


def _ids_in(value: Any, depth: int = 4) -> Iterator[int]:
    """The ids of the modules in nested containers."""
    if isinstance(value, nn.Module):
        yield id(value)
    elif depth and isinstance(value, (list, tuple, set, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _ids_in(item, depth - 1)


def _other_kind(follower: nn.Module, kinds: tuple[type[nn.Module], ...]) -> str:
    return f"{type(follower).__name__} after it is neither {' nor '.join(kind.__name__ for kind in kinds)}"


def _is_plain_sequential(module: nn.Module) -> bool:
    """Whether calling ``module`` runs its children in order and nothing else."""
    if not isinstance(module, nn.Sequential) or "forward" in module.__dict__:
        return False
    if type(module).forward is not FusedSequential.forward and type(module).forward is not nn.Sequential.forward:
        return False
    return all(getattr(type(module), name) is getattr(nn.Sequential, name) for name in ("__iter__", "__call__"))
