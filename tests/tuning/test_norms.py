"""Batch norms and losses are timed too, those that update running statistics without updating them."""

from __future__ import annotations

import pytest
import torch

import fastgan
from fastgan import dispatch
from fastgan import functional as FF
from fastgan.ops.common.tuning_key import of_arguments
from tests.tuning.conftest import fastest


def norm(running, batch=5):
    x = torch.ones(batch, 3, 4, 4, requires_grad=True)
    return FF.batch_norm_act(x, *running, training=True, activation="relu").sum()


def loss():
    x = torch.ones(7, requires_grad=True)
    return FF.binary_cross_entropy_with_logits(x, 1.0)


@pytest.mark.parametrize("name", ["native", "triton", "reference"])
def test_the_fastest_is_used_from_then_on(clock, name):
    fastest(clock, name)

    def work():
        (norm((None, None)) + loss()).backward()

    with fastgan.autotune():
        work()
        assert not clock.timed(work)
        with dispatch.trace() as calls:
            work()
    tuned = [backend for op, backend in calls if op != "bce_with_logits_backward_"]
    assert tuned == [name] * 3


def test_running_statistics_are_updated_once(clock):
    running = torch.zeros(3), torch.ones(3)
    with fastgan.autotune():
        assert clock.timed(lambda: norm(running))
        assert running[0].tolist() == pytest.approx([0.1] * 3)
        assert not clock.timed(lambda: norm(running))
        assert running[0].tolist() == pytest.approx([0.19] * 3)
        FF.batch_norm_stats(torch.ones(5, 3, 4, 4), *running)
        assert running[0].tolist() == pytest.approx([0.271] * 3)


def test_a_key_is_of_all_but_values_and_floats_and_the_class_of_the_batch():
    key = of_arguments(0, 2)
    x, vector = torch.ones(5, 3, 4), torch.ones(3)
    base = key(x, vector, None, (1, 2), 0.1, True)
    same = [
        key(torch.zeros(8, 3, 4), vector * 2, None, [1, 2], 0.2, True),
        key(torch.ones(7, 3, 4), vector, None, torch.Size((1, 2)), 0.1, True),
    ]
    others = [
        key(x[:4], vector, None, (1, 2), 0.1, True),
        key(x.double(), vector, None, (1, 2), 0.1, True),
        key(torch.ones(5, 4, 3).mT, vector, None, (1, 2), 0.1, True),
        key(x, torch.ones(4), None, (1, 2), 0.1, True),
        key(x, vector.double(), None, (1, 2), 0.1, True),
        key(x, None, None, (1, 2), 0.1, True),
        key(x, vector, x, (1, 2), 0.1, True),
        key(x, vector, torch.tensor(1.0), (1, 2), 0.1, True),
        key(x, vector, None, (2, 2), 0.1, True),
        key(x, vector, None, (1, 2), 0.1, False),
    ]
    assert all(one == base and hash(one) == hash(base) for one in same)
    assert len({base, *others}) == len(others) + 1
