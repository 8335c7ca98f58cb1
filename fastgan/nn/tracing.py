"""torch.fx sees our layers as it sees torch's: as one node, not as the code inside."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Proxy

Forward = Callable[..., torch.Tensor]


def leaf(forward: Forward) -> Forward:
    """A module's ``forward`` of which :func:`torch.fx.symbolic_trace` records a ``call_module`` node.

    Tracers take the modules of ``torch.nn`` for leaves by their package's name; ours say so themselves. A subclass, or
    a layer with hooks, is traced through: its code and its hooks have seen the proxies already.
    """

    @functools.wraps(forward)
    def call(self: Any, input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not (args or kwargs or isinstance(input, Proxy)):  # the usual call, in a fraction of the time
            return forward(self, input)
        values = (input, *args, *kwargs.values())
        proxy: Any = next((value for value in values if isinstance(value, Proxy)), None)
        if proxy is None or not _is_plain(self) or getattr(proxy.tracer, "root", None) is self:
            return forward(self, input, *args, **kwargs)
        tracer = proxy.tracer
        return tracer.create_proxy("call_module", tracer.path_of_module(self), (input, *args), kwargs)

    return call


def _is_plain(module: Any) -> bool:
    hooks = module._forward_hooks or module._forward_pre_hooks
    return not hooks and type(module).__module__.startswith("fastgan.nn.")
