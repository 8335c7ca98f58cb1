from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cuda_emulator import Emulator, emulator, reason


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "sanitized"])
def kinds(request: pytest.FixtureRequest) -> bool:
    """Whether with AddressSanitizer and UndefinedBehaviorSanitizer."""
    if reason() is not None:
        pytest.skip(str(reason()))
    return bool(request.param)


@pytest.fixture(scope="module")
def emulated(kinds: bool) -> Iterator[Emulator]:
    with emulator(kinds) as running:
        yield running
