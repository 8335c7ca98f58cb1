"""Triton's interpreter without the work of which nothing is read."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import replace
from typing import Any


def leave_out_unread_checks() -> None:
    """For each sum and product of integers the interpreter computes in int64 whether it overflows, more than half of
    all its time, and hands that to ``device_assert``, which looks at it in debug mode only."""
    with contextlib.suppress(ImportError, AttributeError):  # no Triton, or one in which this is elsewhere: no harm
        from triton.runtime.interpreter import interpreter_builder as builder

        if not builder.options.debug:
            builder.options = replace(builder.options, sanitize_overflow=False)


def patch_the_language_once() -> None:
    """A launch puts the interpreter's functions in the places of ``triton.language``'s, and takes them out at its end.
    Each call of a device function looks through all of the language again, nearly half of the time that is left, and
    finds that they are in. Here a module of the language is looked through once per launch."""
    with contextlib.suppress(ImportError, AttributeError):
        from triton import language
        from triton.runtime import interpreter

        patch, scope_of_nothing = interpreter._patch_lang, interpreter._LangPatchScope
        patched: set[int] = set()  # since the launch began

        def patch_what_is_not(function: Any) -> Any:
            modules = {id(value) for value in function.__globals__.values() if value is language or value is core}
            if modules and modules <= patched:
                return scope_of_nothing()
            scope = patch(function)
            patched.update(modules)
            scope.restore = functools.partial(restored, scope.restore)  # only a launch calls it
            return scope

        def restored(restore: Any) -> None:
            patched.clear()
            restore()

        core = language.core
        interpreter._patch_lang = patch_what_is_not


def look_up_types_once() -> None:
    """For each constant the interpreter makes its table of numpy's types anew."""
    with contextlib.suppress(ImportError, AttributeError):
        from triton import language
        from triton.runtime import interpreter

        look_up = interpreter._get_np_dtype
        known = functools.cache(look_up)

        def numpys(kind: Any) -> Any:
            element = kind.element_ty if type(kind) is language.block_type else kind
            return known(element) if type(element) is language.dtype else look_up(kind)

        interpreter._get_np_dtype = numpys
