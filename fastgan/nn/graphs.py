"""What the ``forward`` of a module does with its layers: torch.fx graphs of a copy."""

from __future__ import annotations

import contextlib
import copy
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


class Call(NamedTuple):
    """A layer's call in the graph of ``caller.forward``."""

    caller: nn.Module
    node: fx.Node


class Graphs(NamedTuple):
    """All that was seen: for the id of each layer its calls, innermost caller first, and a module whose forward uses
    its parameters or buffers; for the id of each module whose forward cannot be traced, why."""

    calls: dict[int, list[Call]]
    tensors: dict[int, nn.Module]
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
    graphs = Graphs({}, {}, {})
    for module in reversed(modules):
        try:
            nodes = [node for training in modes for node in _trace(module, training).nodes]
            layers = [called(module, node) for node in nodes]
            read = [str(node.target).rpartition(".")[0] for node in nodes if node.op == "get_attr"]
            owners = [module.get_submodule(path) for path in read]
        except Exception as error:  # whatever the model's code raises when it meets proxies
            lines = str(error).strip().splitlines()
            graphs.failures[id(module)] = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
            continue
        for layer, node in zip(layers, nodes, strict=True):
            if layer is not None:
                graphs.calls.setdefault(id(layer), []).append(Call(module, node))
        graphs.tensors.update((id(owner), module) for owner in owners)
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
    """What tracing must leave as it was outside the model: random numbers, warnings, the gradient mode."""
    numpy = sys.modules.get("numpy")
    python_state, numpy_state = random.getstate(), numpy.random.get_state() if numpy else None
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    grad_mode = torch.set_grad_enabled(torch.is_grad_enabled())  # puts it back when it is left
    with grad_mode, torch.random.fork_rng(devices), warnings.catch_warnings():
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
    seen, pending = set(), [module]
    while pending:
        value: Any = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.jit.ScriptModule):
            memo[id(value)] = value  # not entered
        elif isinstance(value, torch.Tensor):
            empty = torch.empty_like(value, device="meta")
            is_parameter = isinstance(value, nn.Parameter)
            memo[id(value)] = nn.Parameter(empty, value.requires_grad) if is_parameter else empty
        elif isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, (list, tuple, set)):
            pending += value
        elif not isinstance(value, (type, types.FunctionType, types.ModuleType)):
            pending += getattr(value, "__dict__", {}).values()
    return copy.deepcopy(module, memo)
