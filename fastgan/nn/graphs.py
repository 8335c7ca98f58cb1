"""What the ``forward`` of a module does with its layers: torch.fx graphs of a copy, and the code itself."""

from __future__ import annotations

import contextlib
import copy
import dis
import inspect
import random
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import fx, nn

# Wrappers whose forward calls other processes, devices or a compiler; what they wrap is looked at by itself.
_TORCH_WRAPPERS = ("torch.nn.", "torch.distributed.", "torch._dynamo.")
_JUMPS = {*dis.hasjrel, *dis.hasjabs}


class Call(NamedTuple):
    """A layer's call in the graph of ``caller.forward``."""

    caller: nn.Module
    node: fx.Node


class Graphs(NamedTuple):
    """All that was seen: for the id of each layer its calls, innermost caller first; for the id of each module whose
    forward cannot be traced, why."""

    calls: dict[int, list[Call]]
    failures: dict[int, str]


class _Tracer(fx.Tracer):
    """Every module without children is a leaf, and no hook runs."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        scripted = isinstance(m, torch.jit.ScriptModule)
        return scripted or not m._modules or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return super().call_module(m, m.forward, args, kwargs)


def graphs_of(modules: list[nn.Module], modes: tuple[bool, ...]) -> Graphs:
    """The graphs of every module's own forward with ``training`` as each of ``modes``; outer modules come first."""
    graphs = Graphs({}, {})
    for module in reversed(modules):
        try:
            nodes = [node for training in modes for node in _trace(module, training).nodes]
            layers = [called(module, node) for node in nodes]
        except Exception as error:  # whatever the model's code raises when it meets proxies
            lines = str(error).strip().splitlines()
            graphs.failures[id(module)] = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
            continue
        for layer, node in zip(layers, nodes, strict=True):
            if layer is not None:
                graphs.calls.setdefault(id(layer), []).append(Call(module, node))
    return graphs


def called(caller: nn.Module, node: Any) -> nn.Module | None:
    """The module that ``node`` calls, if it calls one."""
    is_call = isinstance(node, fx.Node) and node.op == "call_module"
    return caller.get_submodule(str(node.target)) if is_call else None


def has_own_forward(module: nn.Module) -> bool:
    """Whether there is code of the model's own to trace: not a layer, a container or one of torch's wrappers."""
    if not module._modules or isinstance(module, torch.jit.ScriptModule):
        return False
    return not is_container(module) and not type(module).__module__.startswith(_TORCH_WRAPPERS)


def is_container(module: nn.Module) -> bool:
    """Whether the module has no forward."""
    return type(module).forward is nn.Module.forward


def _trace(module: nn.Module, training: bool) -> fx.Graph:
    parameters = inspect.signature(type(module).forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    with _unseen():
        try:
            return _Tracer().trace(_twin(module).train(training))
        except Exception:
            if not defaults:
                raise
            # a flag that the code branches on is not a tensor: as most callers leave it
            return _Tracer().trace(_twin(module).train(training), concrete_args=defaults)


@contextlib.contextmanager
def _unseen() -> Iterator[None]:
    """What tracing must leave as it was outside the model: random numbers, warnings."""
    numpy = sys.modules.get("numpy")
    python_state, numpy_state = random.getstate(), numpy.random.get_state() if numpy else None
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            random.setstate(python_state)
            if numpy:
                numpy.random.set_state(numpy_state)


def _twin(module: nn.Module) -> nn.Module:
    """A deep copy whose tensors hold no data: what ``forward`` does to the model, it does to the copy."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        if isinstance(part, torch.jit.ScriptModule):
            memo[id(part)] = part  # not entered
            continue
        for value in (*part._parameters.values(), *part._buffers.values(), *part.__dict__.values()):
            if isinstance(value, torch.Tensor):
                empty = torch.empty_like(value, device="meta")
                is_parameter = isinstance(value, nn.Parameter)
                memo[id(value)] = nn.Parameter(empty, value.requires_grad) if is_parameter else empty
    return copy.deepcopy(module, memo)


def in_one_line(kind: type[nn.Module], names: tuple[str, str]) -> bool:
    """Whether the code of ``kind`` reads both attributes exactly once, with no branch in between.

    A graph shows one path through the code. This shows that no other path, method or flag runs one without the other.
    """
    reads: dict[str, list[tuple[types.CodeType, int]]] = {name: [] for name in names}
    for code in _codes(kind):
        for position, step in enumerate(dis.get_instructions(code)):
            if step.argval in names and step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                reads[step.argval].append((code, position))
    if any(len(found) != 1 for found in reads.values()):
        return False
    (first_code, first), (second_code, second) = (found[0] for found in reads.values())
    if first_code is not second_code:
        return False
    between = list(dis.get_instructions(first_code))[min(first, second) + 1 : max(first, second) + 1]
    return not any(step.is_jump_target or step.opcode in _JUMPS for step in between)


def _codes(kind: type[nn.Module]) -> Iterator[types.CodeType]:
    """The code of every method but the constructor, its own and inherited, with the functions inside."""
    for base in kind.__mro__:
        if base is nn.Module:
            return
        for name, member in vars(base).items():
            function = inspect.unwrap(getattr(member, "fget", None) or getattr(member, "__func__", member))
            if name != "__init__" and isinstance(function, types.FunctionType):
                pending = [function.__code__]
                while pending:
                    code = pending.pop()
                    yield code
                    pending += [inner for inner in code.co_consts if isinstance(inner, types.CodeType)]
