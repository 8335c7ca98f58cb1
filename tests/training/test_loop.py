"""The loop: what it writes, when it stops, and that a seed settles everything."""

from pathlib import Path

import pytest
import torch

from fastgan.data import DataError
from fastgan.training import load_checkpoint, load_generator
from tests.training.runs import noise_set, resume, rows_of, run, same_training


def test_what_a_run_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path / "run")
    rows = rows_of(folder)
    assert [row["step"] for row in rows] == ["2", "4", "5"]
    assert [row["epoch"] for row in rows] == ["1", "1", "2"]
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("d_real", "d_fake"))
    assert all(float(row[name]) > 0 for row in rows for name in ("images_per_second", "d_grad_norm", "g_grad_norm"))
    assert sorted(path.name for path in (folder / "samples").iterdir()) == ["step-000004.png", "step-000005.png"]
    content = load_checkpoint(folder / "checkpoint.pt")
    assert content["step"] == 5
    assert content["config"]["model"] == "gan"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3, lines
    for part in ("step 2", "D loss", "G loss", "D(x)", "D(G(z))", "images/s", "left 0:0"):
        assert part in lines[0]


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        ({"steps": 3}, 3),
        ({"steps": None, "epochs": 2}, 8),
        ({"steps": 100, "epochs": 1}, 4),
        ({"steps": 1, "epochs": 1}, 1),
        ({"steps": None, "minutes": 1e-9}, 1),
    ],
)
def test_length(tmp_path: Path, limits: dict[str, object], steps: int) -> None:
    folder = run(tmp_path / "run", **limits)
    assert load_checkpoint(folder / "checkpoint.pt")["step"] == steps


@pytest.mark.parametrize("model", ["gan", "dcgan", "cgan"])
def test_same_seed_same_bits(tmp_path: Path, model: str) -> None:
    data = noise_set(16, 3, 32) if model == "dcgan" else noise_set(16)
    options = {"model": model, "data": data, "batch_size": 4, "steps": 2}
    torch.rand(5)
    first = run(tmp_path / "first", seed=3, **options)
    torch.manual_seed(99)  # whatever was drawn before does not matter
    again = run(tmp_path / "again", seed=3, **options)
    other = run(tmp_path / "other", seed=4, **options)
    assert same_training(first, again)
    assert not same_training(first, other)
    picture = "samples/step-000002.png"
    assert (first / picture).read_bytes() == (again / picture).read_bytes()
    assert (first / picture).read_bytes() != (other / picture).read_bytes()


def test_neither_logging_nor_sampling_changes_the_training(tmp_path: Path) -> None:
    data = noise_set(16)
    often = run(tmp_path / "a", data, model="cgan", batch_size=4, steps=3, log_every=1, save_every=1)
    never = run(tmp_path / "b", data, model="cgan", batch_size=4, steps=3, log_every=99, save_every=99)
    assert same_training(often, never)


def test_channels_last_trains_the_same_network(tmp_path: Path) -> None:
    data = noise_set(16, 3, 32)
    plain = run(tmp_path / "a", data, model="dcgan", batch_size=8, steps=1, channels_last=False)
    last = run(tmp_path / "b", data, model="dcgan", batch_size=8, steps=1)
    a, b = (float(rows_of(folder)[0]["d_loss"]) for folder in (plain, last))
    assert a == pytest.approx(b, rel=1e-4)


def test_the_generator_comes_back(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", model="cgan", batch_size=8, steps=1, data=noise_set(8))
    trained = load_generator(folder)
    assert not trained.generator.training
    assert (trained.config.model, trained.step) == ("cgan", 1)
    assert trained.class_names == tuple("0123456789")
    assert trained.generator(torch.zeros(1, 100), torch.tensor([3])).shape == (1, 1, 28, 28)


def test_minimax_is_another_training(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a"), run(tmp_path / "b", loss="minimax")
    assert float(rows_of(a)[0]["g_loss"]) > 0 > float(rows_of(b)[0]["g_loss"])


def test_a_set_smaller_than_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="batch size 65 is larger than the 64 images"):
        run(tmp_path / "run", batch_size=65)


def test_label_smoothing_reaches_the_loss(tmp_path: Path) -> None:
    """At D = 1/2 nothing changes; a D that is sure of the real images pays for it."""
    a, b = run(tmp_path / "a", steps=30), run(tmp_path / "b", steps=30, label_smoothing=0.4)
    assert float(rows_of(b)[-1]["d_loss"]) > float(rows_of(a)[-1]["d_loss"]) + 0.1


def test_several_steps_of_d_take_as_many_batches(tmp_path: Path) -> None:
    """64 images, batches of 16: with two batches a step an epoch lasts two steps."""
    folder = run(tmp_path / "run", steps=None, epochs=3, d_steps=2, log_every=1)
    assert [row["epoch"] for row in rows_of(folder)] == ["1", "1", "2", "2", "3", "3"]


def test_bfloat16_autocast_trains(tmp_path: Path) -> None:
    data = noise_set(16)
    plain = run(tmp_path / "a", data, model="cgan", batch_size=8, steps=2, log_every=1)
    amp = run(tmp_path / "b", data, model="cgan", batch_size=8, steps=2, log_every=1, amp=True)
    first, second = (float(rows_of(folder)[0]["d_loss"]) for folder in (plain, amp))
    assert first != second
    assert first == pytest.approx(second, rel=0.02)  # bfloat16 has 8 bits
    state = load_checkpoint(amp / "checkpoint.pt")["generator"]
    assert {tensor.dtype for tensor in state.values()} == {torch.float32, torch.int64}


def test_curves_and_tensorboard(tmp_path: Path) -> None:
    from PIL import Image
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run(tmp_path / "run")
    with Image.open(folder / "curves.png") as picture:
        assert picture.size[0] > 1000
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("d_loss")] == [2, 4, 5]
    assert [f"{event.value:.6g}" for event in events.Scalars("g_loss")] == [row["g_loss"] for row in rows_of(folder)]
    assert [event.step for event in events.Images("samples")] == [4, 5]


def test_the_checkpoint_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it writes the picture, a run has yet to do the step again, and then writes the picture."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fastgan.training.recorder.save_png", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "run", steps=2)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    resume(tmp_path / "run", steps=2)
    assert (tmp_path / "run" / "samples" / "step-000002.png").exists()
