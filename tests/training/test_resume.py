"""A run that was stopped and resumed has the same bits as one that never stopped."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fastgan.data import ImageFiles
from fastgan.training import CheckpointError, load_checkpoint, load_state, save_checkpoint
from tests.training.runs import equal, noise_set, resume, rows_of, run, same_training

# Five batches to an epoch: every stop below but the last is in the middle of one.
IMAGES, BATCH = 42, 8
CASES: dict[str, dict[str, Any]] = {
    "gan": {"model": "gan"},
    "dcgan": {"model": "dcgan"},
    "cgan": {"model": "cgan"},
    "two steps of D": {"model": "gan", "d_steps": 2},
    "bfloat16": {"model": "cgan", "amp": True},
    "NCHW, minimax, smoothed": {"model": "dcgan", "channels_last": False, "loss": "minimax", "label_smoothing": 0.1},
}


def logged(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv without what the clock says."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in rows_of(folder)]


@pytest.mark.parametrize("name", CASES)
def test_stopped_twice(tmp_path: Path, name: str) -> None:
    options = {"batch_size": BATCH, "log_every": 1, **CASES[name]}
    data = noise_set(IMAGES, 3, 32) if options["model"] == "dcgan" else noise_set(IMAGES)
    straight = run(tmp_path / "straight", data, steps=8, **options)
    stopped = run(tmp_path / "stopped", data, steps=3, **options)
    torch.rand(7)  # a new process has other dice
    resume(stopped, data, steps=5, **options)
    torch.manual_seed(99)
    resume(stopped, data, steps=8, **options)
    assert same_training(straight, stopped)
    assert logged(straight) == logged(stopped)
    picture = "samples/step-000008.png"
    with Image.open(straight / picture) as a, Image.open(stopped / picture) as b:
        assert a.tobytes() == b.tobytes()


def test_the_test_can_fail(tmp_path: Path) -> None:
    """Each part of the state matters: with another in its place the bits differ."""
    options = {"batch_size": BATCH, "log_every": 1, "model": "gan"}
    straight = run(tmp_path / "straight", noise_set(IMAGES), steps=5, **options)
    start = run(tmp_path / "start", noise_set(IMAGES), steps=3, **options)
    whole, earlier = (
        load_checkpoint(start / "checkpoint.pt"),
        run(tmp_path / "one", noise_set(IMAGES), steps=1, **options),
    )
    other = load_checkpoint(earlier / "checkpoint.pt")
    for part in ("generator", "discriminator", "g_optimizer", "d_optimizer", "draws"):
        save_checkpoint(start / "checkpoint.pt", {**whole, part: other[part]})
        resume(start, noise_set(IMAGES), steps=5, **options)
        assert not same_training(straight, start), part


def test_the_log_goes_on_in_the_middle_of_a_line(tmp_path: Path) -> None:
    """Stopped by a signal after step 3, the line of step 4 is still the mean of steps 3 and 4."""
    options = {"batch_size": BATCH, "log_every": 4, "save_every": 3}
    straight = run(tmp_path / "straight", noise_set(IMAGES), steps=8, **options)
    killed = run(tmp_path / "killed", noise_set(IMAGES), steps=7, **options)
    # as if it had been killed after the checkpoint of step 3 and before the next: later rows are there, half of one too
    state = load_checkpoint(killed / "checkpoint-previous.pt")
    assert state["step"] == 6
    (killed / "checkpoint-previous.pt").replace(killed / "checkpoint.pt")
    with (killed / "metrics.csv").open("a") as file:
        file.write("8,2,1.0,0.1")
    resume(killed, noise_set(IMAGES), steps=8, **options)
    assert logged(straight) == logged(killed)
    assert [row["step"] for row in rows_of(killed)] == ["4", "8"]
    assert same_training(straight, killed)


@pytest.mark.parametrize("save_every", [4, 5])
def test_a_run_made_longer_has_the_log_of_a_long_run(tmp_path: Path, save_every: int) -> None:
    """It ended in the middle of a line; the short line that was written then is not there any more."""
    options = {"batch_size": BATCH, "log_every": 3, "save_every": save_every}
    straight = run(tmp_path / "straight", noise_set(IMAGES), steps=12, **options)
    longer = run(tmp_path / "longer", noise_set(IMAGES), steps=8, **options)
    assert [row["step"] for row in rows_of(longer)] == ["3", "6", "8"]
    resume(longer, noise_set(IMAGES), steps=12, **options)
    assert logged(straight) == logged(longer)
    assert same_training(straight, longer)


def test_streamed_images(tmp_path: Path) -> None:
    """Files instead of memory: the same bits, stopped in the middle of an epoch or not."""
    folder = tmp_path / "images"
    for index, image in enumerate(noise_set(20).images):
        (folder / str(index % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / str(index % 2) / f"{index:03d}.png")
    labels = torch.tensor([0] * 10 + [1] * 10)
    files = tuple(sorted(str(path.relative_to(folder)) for path in folder.rglob("*.png")))
    data = ImageFiles("folder:x", "here", folder, files, labels, 2, ("0", "1"), 1, 28, torch.device("cpu"))
    options: dict[str, Any] = {"model": "cgan", "batch_size": 4, "log_every": 1}
    straight = run(tmp_path / "straight", data, steps=7, **options)
    stopped = run(tmp_path / "stopped", data, steps=3, **options)
    resume(stopped, data, steps=7, **options)
    assert same_training(straight, stopped)
    memory = run(tmp_path / "memory", data.in_memory(), steps=7, **options)
    networks = [load_checkpoint(path / "checkpoint.pt")["generator"] for path in (straight, memory)]
    assert equal(*networks)


def test_damage_in_the_csv_does_not_stop_a_run(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", steps=6, log_every=1)
    lines = (folder / "metrics.csv").read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b".", b"\xff", 1)
    lines[3] = lines[3].replace(b"0.", b"0x", 1)
    lines[4] = b"\n"
    (folder / "metrics.csv").write_bytes(b"".join(lines))
    resume(folder, steps=8, log_every=1)
    assert [row["step"] for row in rows_of(folder)] == ["1", "5", "6", "7", "8"]


def test_the_checkpoint_before_is_not_overwritten_unseen(tmp_path: Path) -> None:
    """The damaged one was deleted, and not yet replaced by the one before it."""
    folder = run(tmp_path / "run", steps=6, save_every=3)
    (folder / "checkpoint.pt").unlink()
    with pytest.raises(CheckpointError, match="that of step 3 is whole: mv "):
        resume(folder, steps=8)


def test_seconds_add_up(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", steps=3)
    before = load_checkpoint(folder / "checkpoint.pt")["seconds"]
    resume(folder, steps=6)
    assert load_checkpoint(folder / "checkpoint.pt")["seconds"] > before
    seconds = [float(row["seconds"]) for row in rows_of(folder)]
    assert seconds == sorted(seconds)


def test_other_data_is_refused(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", steps=2)
    before = (folder / "checkpoint.pt").read_bytes()
    with pytest.raises(CheckpointError, match="was trained on other data"):
        resume(folder, noise_set(65), steps=4)
    with pytest.raises(CheckpointError, match="not one of this fastgan's gan"):
        save_checkpoint(folder / "checkpoint.pt", {**load_checkpoint(folder / "checkpoint.pt"), "generator": {}})
        resume(folder, steps=4)
    (folder / "checkpoint.pt").write_bytes(before)
    resume(folder, steps=4)


def test_without_a_checkpoint_it_begins_again(tmp_path: Path) -> None:
    """Killed before the first checkpoint: what it would have done is done."""
    straight = run(tmp_path / "straight", steps=4)
    killed = run(tmp_path / "killed", steps=2)
    (killed / "checkpoint.pt").unlink()
    assert load_state(killed) is None
    resume(killed, steps=4)
    assert same_training(straight, killed)
    assert logged(straight) == logged(killed)


def test_the_checkpoint_before_is_kept_and_named(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", steps=6, save_every=2)
    assert load_checkpoint(folder / "checkpoint-previous.pt")["step"] == 4
    path = folder / "checkpoint.pt"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError) as caught:
        resume(folder, steps=8)
    assert "damaged" in str(caught.value)
    assert f"that of step 4 is whole: mv {folder / 'checkpoint-previous.pt'} {path}, and resume" in str(caught.value)
    (folder / "checkpoint-previous.pt").replace(path)
    resume(folder, steps=6, save_every=2)
    assert same_training(run(tmp_path / "straight", steps=6, save_every=2), folder)
