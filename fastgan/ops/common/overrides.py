"""The ``__torch_function__`` protocol for functions that are not torch's: subclasses of Tensor, modes, torch.fx."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch.overrides import handle_torch_function, has_torch_function_variadic

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def overridable(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """``function``, which an argument's or an active mode's ``__torch_function__`` may take over, as it may torch's."""

    @functools.wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if has_torch_function_variadic(*args, *kwargs.values()):
            return handle_torch_function(call, (*args, *kwargs.values()), *args, **kwargs)
        return function(*args, **kwargs)

    return call
