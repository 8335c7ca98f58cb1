"""Triton's interpreter without the work of which nothing is read."""

from __future__ import annotations

import contextlib
from dataclasses import replace


def leave_out_unread_checks() -> None:
    """For each sum and product of integers the interpreter computes in int64 whether it overflows, more than half of
    all its time, and hands that to ``device_assert``, which looks at it in debug mode only."""
    with contextlib.suppress(ImportError, AttributeError):  # no Triton, or one in which this is elsewhere: no harm
        from triton.runtime.interpreter import interpreter_builder as builder

        if not builder.options.debug:
            builder.options = replace(builder.options, sanitize_overflow=False)
