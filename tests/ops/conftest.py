"""Fixtures of several test files."""

from tests.ops.hostile import hostile, launched

__all__ = ["hostile", "launched"]
