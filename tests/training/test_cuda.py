"""What only a GPU shows: that no step waits for it, and that the numbers come back from it."""

from pathlib import Path

import pytest
import torch

from fastgan.data import ImageSet
from fastgan.training import loop as loop_module
from tests.training.runs import noise_set, resume, rows_of, run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]


def on_the_gpu() -> ImageSet:
    data = noise_set(42)
    return ImageSet(data.name, data.origin, data.images.cuda(), data.labels.cuda())


@pytest.mark.parametrize("model", ["gan", "cgan"])
def test_no_step_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    """Over the ends of epochs too, with the real optimizers and the real data."""
    step = loop_module.train_step

    def strict(*arguments):  # type: ignore[no-untyped-def]
        torch.cuda.set_sync_debug_mode("error")
        try:
            return step(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    run(tmp_path / "warm", on_the_gpu(), model=model, device="cuda", batch_size=8, steps=2)
    monkeypatch.setattr(loop_module, "train_step", strict)
    run(tmp_path / "run", on_the_gpu(), model=model, device="cuda", batch_size=8, steps=12, d_steps=2)


def test_every_line_of_the_log_arrives(tmp_path: Path) -> None:
    options = {"model": "cgan", "device": "cuda", "batch_size": 8, "log_every": 2, "save_every": 3, "amp": True}
    folder = run(tmp_path / "run", on_the_gpu(), steps=9, **options)
    assert [row["step"] for row in rows_of(folder)] == ["2", "4", "6", "8", "9"]
    resume(folder, on_the_gpu(), steps=12, **options)
    assert [row["step"] for row in rows_of(folder)] == ["2", "4", "6", "8", "10", "12"]
    assert all(float(row[name]) > 0 for row in rows_of(folder) for name in ("d_grad_norm", "images_per_second"))
