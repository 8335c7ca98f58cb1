"""Forward-mode differentiation through our autograd Functions, and which class of a Function runs.

torch.compile traces no Function that has a ``jvp``. So each of ours has none, and a subclass that adds it runs wherever
nothing is compiled.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch._C._functorch import TransformType, get_interpreter_stack
from torch.autograd import forward_ad


def with_jvp(function: Any, subclass: Any) -> Any:
    """``subclass``, which is ``function`` with a ``jvp``; ``function`` itself for a compiler."""
    if torch.compiler.is_compiling():
        return function
    return subclass if torch._C._are_functorch_transforms_active() else _eager(subclass)


@functools.cache
def _eager(function: Any) -> Any:
    """``function`` with ``setup_context`` called by its ``forward``: the form that torch.func's transforms cannot use.

    Of a Function that has a ``setup_context`` torch inspects the signature on each call, which takes several times as
    long as everything else that ``apply`` does.
    """

    def forward(ctx: Any, *args: Any) -> Any:
        output = function.forward(*args)
        function.setup_context(ctx, args, output)
        return output

    members = {
        "__doc__": function.__doc__,
        "__module__": function.__module__,
        "forward": staticmethod(forward),
        "setup_context": staticmethod(torch.autograd.Function.setup_context),
    }
    return type(function.__name__, (function,), members)


def differentiable_backward() -> bool:
    """Whether a backward that runs now may itself be differentiated: under ``create_graph``, or in forward mode."""
    if torch.is_grad_enabled():
        return True
    return not torch.compiler.is_compiling() and forward_ad._current_level >= 0


def transformed() -> bool:
    """Whether one of torch.func's transforms or forward mode may see what runs now."""
    return not torch.compiler.is_compiling() and (
        torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    )


def bare(*tensors: torch.Tensor | None) -> bool:
    """Whether nothing can ask for a derivative of this call. Then the op alone will do: a Function costs more than a
    small op does, and a compiler cannot trace one that marks an output as not differentiable unless it needs its
    backward too."""
    if transformed():
        return False
    return not torch.is_grad_enabled() or not any(tensor is not None and tensor.requires_grad for tensor in tensors)


def refuse_nested(name: str) -> None:
    """Raise within a ``jvp`` inside another one.

    torch runs the ``jvp`` of a custom Function with forward mode switched off, so the outer tangents would be lost.

    Raises:
        RuntimeError: two transforms around this call are forward-mode.
    """
    levels = [level for level in get_interpreter_stack() or () if level.key() == TransformType.Jvp]
    if len(levels) > 1:
        raise RuntimeError(
            f"{name}: forward-mode differentiation inside forward-mode differentiation (jvp of jvp, jacfwd of jacfwd) "
            "is not supported, as torch gives custom Functions one level of it; use torch.func.hessian, or jvp of grad"
        )


def add(terms: list[torch.Tensor]) -> torch.Tensor | None:
    """Their sum; None (a zero tangent) if there are none."""
    return sum(terms[1:], terms[0]) if terms else None
