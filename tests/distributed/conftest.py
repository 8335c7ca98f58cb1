"""Two processes of a gloo group, started once per session: starting them costs seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.distributed.ranks import Ranks

WORLD = 2


@pytest.fixture(scope="session")
def _processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        pytest.skip("this torch has no gloo")
    ranks = Ranks(WORLD, tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.close()


@pytest.fixture
def ranks(_processes: Ranks) -> Ranks:
    """``ranks(function, *args)`` calls ``function(*args, rank)`` in each process; returns the list of the results."""
    return _processes
