"""Memory does not grow with the steps."""

import os
from pathlib import Path

import pytest

from fastgan.training import loop as loop_module
from tests.training.runs import run

PAGE = os.sysconf("SC_PAGE_SIZE") / 2**20


def resident() -> float:
    """MiB of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_memory_is_flat_over_2000_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its log, checkpoints, grids and TensorBoard. A tensor of one batch kept per step would be 50 MiB."""
    seen, step = {}, loop_module.train_step

    def watched(*arguments):  # type: ignore[no-untyped-def]
        seen[len(seen) + 1] = resident()
        return step(*arguments)

    monkeypatch.setattr(loop_module, "train_step", watched)
    run(tmp_path / "run", steps=2000, batch_size=8, log_every=10, save_every=100)
    assert len(seen) == 2000
    early, late = max(seen[i] for i in range(300, 500)), max(seen[i] for i in range(1800, 2001))
    assert late - early < 10, f"{early:.0f} MiB by step 500, {late:.0f} MiB at the end"
