"""The loop: what it writes, when it stops, that a seed settles everything, and what a signal or a NaN leaves behind."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fastgan.data import DataError, ImageSet
from fastgan.training import NonFiniteError, TrainConfig, load_checkpoint, load_generator, open_run
from fastgan.training import loop as loop_module
from fastgan.training.loop import train


def noise_set(count: int = 64, channels: int = 1, size: int = 28) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, channels, size, size), generator=generator, dtype=torch.uint8)
    return ImageSet("digits", "memory", images, torch.arange(count) % 10)


def run(folder: Path, data: ImageSet | None = None, **options: object) -> Path:
    settings = {"model": "gan", "data": "digits", "steps": 5, "batch_size": 16, "log_every": 2, "sample_every": 4}
    config = TrainConfig(**{**settings, **options})  # type: ignore[arg-type]
    with open_run(folder, overwrite=False):
        assert train(config, data or noise_set(), folder) is None
    return folder


def losses(folder: Path) -> list[dict[str, str]]:
    with (folder / "losses.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_a_run_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path / "run")
    rows = losses(folder)
    assert [row["step"] for row in rows] == ["2", "4", "5"]
    assert [row["epoch"] for row in rows] == ["1", "1", "2"]
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("d_real", "d_fake"))
    assert all(float(row["images_per_second"]) > 0 for row in rows)
    assert sorted(path.name for path in (folder / "samples").iterdir()) == ["step-000004.png", "step-000005.png"]
    content = load_checkpoint(folder / "checkpoint.pt")
    assert content["step"] == 5
    assert content["config"]["model"] == "gan"
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    for part in ("step 2", "D loss", "G loss", "D(x)", "D(G(z))", "images/s"):
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
    assert (first / "checkpoint.pt").read_bytes() == (again / "checkpoint.pt").read_bytes()
    picture = "samples/step-000002.png"
    assert (first / picture).read_bytes() == (again / picture).read_bytes()
    assert (first / picture).read_bytes() != (other / picture).read_bytes()


def test_neither_logging_nor_sampling_changes_the_training(tmp_path: Path) -> None:
    data = noise_set(16)
    often = run(tmp_path / "a", data, model="cgan", batch_size=4, steps=3, log_every=1, sample_every=1)
    never = run(tmp_path / "b", data, model="cgan", batch_size=4, steps=3, log_every=99, sample_every=99)
    for name in ("generator", "discriminator"):
        a, b = (load_checkpoint(folder / "checkpoint.pt")[name] for folder in (often, never))
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_channels_last_trains_the_same_network(tmp_path: Path) -> None:
    data = noise_set(16, 3, 32)
    plain = run(tmp_path / "a", data, model="dcgan", batch_size=8, steps=1)
    last = run(tmp_path / "b", data, model="dcgan", batch_size=8, steps=1, channels_last=True)
    a, b = (float(losses(folder)[0]["d_loss"]) for folder in (plain, last))
    assert a == pytest.approx(b, rel=1e-4)


def test_the_generator_comes_back(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", model="cgan", batch_size=8, steps=1, data=noise_set(8))
    generator, config = load_generator(folder)
    assert not generator.training
    assert config["model"] == "cgan"
    assert generator(torch.zeros(1, 100), torch.tensor([3])).shape == (1, 1, 28, 28)


def test_minimax_is_another_training(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a"), run(tmp_path / "b", loss="minimax")
    assert float(losses(a)[0]["g_loss"]) > 0 > float(losses(b)[0]["g_loss"])


def test_a_set_smaller_than_a_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="batch size 65 is larger than the 64 images"):
        run(tmp_path / "run", batch_size=65)


def test_a_bad_loss_is_named_and_the_healthy_checkpoint_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy, step = loop_module.train_step, iter(range(1, 100))

    def poisoned(players, *arguments):  # type: ignore[no-untyped-def]
        metrics = healthy(players, *arguments)
        now = next(step)
        if now == 5:
            metrics[1] = float("inf")
        if now == 6:  # the step whose line is printed, and the losses read
            with torch.no_grad():
                players.discriminator.layers[2].weight[0, 0] = float("nan")
        return metrics

    monkeypatch.setattr(loop_module, "train_step", poisoned)
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path / "run", steps=20)
    for part in ("step 5", "g_loss", "discriminator.layers.2.weight", "checkpoint of step 4"):
        assert part in str(caught.value)
    content = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert content["step"] == 4
    assert all(tensor.isfinite().all() for tensor in content["discriminator"].values())


def test_bad_weights_are_not_saved_though_the_losses_are_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = loop_module.train_step

    def poisoned(players, *arguments):  # type: ignore[no-untyped-def]
        metrics = healthy(players, *arguments)
        with torch.no_grad():
            players.generator.layers[0].bias[3] = float("inf")
        return metrics

    monkeypatch.setattr(loop_module, "train_step", poisoned)
    with pytest.raises(NonFiniteError, match=r"generator\.layers\.0\.bias; there is no checkpoint yet"):
        run(tmp_path / "run", steps=1)
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_and_saves(tmp_path: Path, number: signal.Signals, code: int) -> None:
    folder = tmp_path / "run"
    every = ["--log-every", "1", "--sample-every", "1000000"]
    limits = ["--steps", "1000000", "--batch-size", "8", "--device", "cpu"]
    command = [sys.executable, "-m", "fastgan.cli", "train", "gan", "--data", "digits", *limits, *every]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, "--out", str(folder)], env=environment, **pipes) as process:
        try:
            deadline = time.monotonic() + 120
            while not (folder / "losses.csv").exists() or len((folder / "losses.csv").read_text().splitlines()) < 3:
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(number)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == code
    assert errors == ""
    assert f"stopped by {number.name}" in output
    content = load_checkpoint(folder / "checkpoint.pt")
    assert str(content["step"]) == losses(folder)[-1]["step"]
