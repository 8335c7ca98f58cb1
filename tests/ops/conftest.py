"""Fixtures of the op tests."""

from __future__ import annotations

import pytest

import fastgan
from fastgan import dispatch
from fastgan.info import SAMPLES
from tests.ops.hostile import hostile, launched

__all__ = ["hostile", "launched", "link_backend"]


@pytest.fixture(params=["reference", "triton"])
def link_backend(request, device):
    """As ``backend``, for the ops of a chain: forced, per backend that has them."""
    name = request.param
    for op in ("conv2d_stats", "conv2d_stats_backward", "batch_norm_stats"):
        reason = dispatch.why_not(op, *SAMPLES[op](device))[name]
        if reason is not None:
            pytest.skip(reason)
    with fastgan.use_backend(name), dispatch.trace() as calls:
        yield name
    wrong = [call for call in calls if call[1] != name]
    assert not wrong, f"asked for {name}, but these ran: {wrong}"
