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

    Tracers take the modules of ``torch.nn`` for leaves by their package's name; ours say so themselves.
    """

    @functools.wraps(forward)
    def call(self: Any, input: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        # traced as the root, the layer is what is to be seen
        if isinstance(input, Proxy) and getattr(input.tracer, "root", None) is not self:
            tracer = input.tracer
            return tracer.create_proxy("call_module", tracer.path_of_module(self), (input, *args), kwargs)
        return forward(self, input, *args, **kwargs)

    return call
