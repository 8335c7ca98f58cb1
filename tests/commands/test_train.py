"""``fastgan train``: what is refused and that nothing is made then; resuming; doing a run again."""

import builtins
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import fastgan.training
from tests.commands.calls import call, refused
from tests.training.runs import noise_set, same_training

TRAIN = "train gan --data digits --out run"
WRONG_TRAIN = {
    "": "Missing command",
    "paint": "No such command 'paint'",
    "train": "missing MODEL: one of gan, dcgan, cgan",
    "train wgan --data digits": "MODEL: must be one of gan, dcgan, cgan, got 'wgan'",
    "train gan": "missing --data",
    "train gan --data": "--data",
    "train gan --data cifar": "unknown dataset 'cifar'",
    "train gan --data folder:nowhere": "nowhere",
    f"{TRAIN} --colour red": "No such option: --colour",
    f"{TRAIN} --steps 0": "--steps: must be a whole number of at least 1, got 0",
    f"{TRAIN} --steps ten": "--steps",
    f"{TRAIN} --epochs -1": "--epochs",
    f"{TRAIN} --minutes nan": "--minutes: must be a number above 0",
    f"{TRAIN} --minutes inf": "--minutes",
    f"{TRAIN} --batch-size 1.5": "--batch-size",
    f"{TRAIN} --batch-size 1501": "--batch-size 1501 is larger than the 1500 images of digits",
    f"{TRAIN} --seed -1": "--seed",
    f"{TRAIN} --seed 9223372036854775808": "--seed",
    f"{TRAIN} --lr 0": "--lr: must be a number above 0, got 0",
    f"{TRAIN} --loss wasserstein": "--loss: must be one of non_saturating, minimax, got 'wasserstein'",
    f"{TRAIN} --label-smoothing 0.5": "--label-smoothing: must be a number from 0 to below 0.5, got 0.5",
    f"{TRAIN} --d-steps 0": "--d-steps",
    f"{TRAIN} --image-size 0": "--image-size",
    f"{TRAIN} --channels 2": "--channels: must be 1 (grey) or 3 (colour), got 2",
    "train dcgan --data digits --image-size 48 --out run": "--image-size: of a dcgan must be 32, 64 or 128, got 48",
    "train cgan --data digits --image-size 32 --out run": "--image-size: of a cgan must be 28, got 32",
    f"{TRAIN} --device tpu": "--device: must be cpu, cuda or cuda:N, got 'tpu'",
    f"{TRAIN} --device cuda:99": "cuda:99 is not there",
    f"{TRAIN} --data-dir nowhere": "--data-dir nowhere: no such folder",
    f"{TRAIN} --log-every 0": "--log-every",
    "train gan --data fashion-mnist --out run": "dataset-fashion-mnist",
    f"{TRAIN} --config nowhere": "nowhere: no such file",
    "train --resume nowhere": "nowhere",
    f"{TRAIN} --resume run": "leave out --out, --overwrite and --config",
}


@pytest.mark.parametrize("command", WRONG_TRAIN)
def test_wrong_train(command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert WRONG_TRAIN[command] in refused(command, capsys)
    assert not list(tmp_path.iterdir())  # nothing is made before everything is known to be right


def test_wrong_run_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    assert "is a file" in refused("train gan --data digits --steps 1 --out file", capsys)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes").write_text("mine")
    assert "--overwrite" in refused(f"{TRAIN} --steps 1", capsys)
    assert "file/run" in refused("train gan --data digits --steps 1 --out file/run", capsys)


@pytest.mark.parametrize(
    ("module", "package"),
    [("PIL", "pillow"), ("sklearn", "scikit-learn"), ("tensorboard", "tensorboard"), ("matplotlib", "matplotlib")],
)
def test_missing_extras(
    module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before anything of an older run is touched."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_text("precious")
    late = tuple(f"fastgan.training.{part}" for part in ("loop", "recorder", "pictures", "curves"))
    for name in list(sys.modules):
        if name.partition(".")[0] == module or name.startswith(("torch.utils.tensorboard", *late)):
            monkeypatch.delitem(sys.modules, name)
    for name in late:  # a package holds its modules too: without this, the copies made here would stay in it
        monkeypatch.delattr(fastgan.training, name.rpartition(".")[2], raising=False)
    real_import = builtins.__import__

    def without(name, *args, **kwargs):  # type: ignore[no-untyped-def]
        if name.partition(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *args, **kwargs)

    find_spec = importlib.util.find_spec
    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else find_spec(name))
    errors = refused(f"{TRAIN} --steps 1 --overwrite", capsys)
    assert f"{package} is not installed: pip install 'fastgan[train]'" in errors
    assert (tmp_path / "run" / "checkpoint.pt").read_text() == "precious"


def test_exit_codes_of_a_failing_training(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not finite" in refused(f"{TRAIN} --steps 50 --batch-size 8 --lr 1e38 --device cpu", capsys, code=1)


def test_the_global_thread_count_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    call(f"{TRAIN} --steps 1 --batch-size 8 --device cpu", capsys)
    assert torch.get_num_threads() == threads


def test_a_run_is_done_again_from_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = "train dcgan --data digits --steps 2 --batch-size 4 --seed 7 --d-steps 2 --label-smoothing 0.1 --device cpu"
    assert call(f"{first} --out first", capsys)[0] == 0
    assert call("train --config first --out again", capsys)[0] == 0
    assert same_training(tmp_path / "first", tmp_path / "again")
    assert call("train --config first/run.json --out other --seed 8", capsys)[0] == 0
    assert not same_training(tmp_path / "first", tmp_path / "other")
    record = json.loads((tmp_path / "again" / "run.json").read_text())
    assert record["config"]["label_smoothing"] == 0.1
    assert record["processes"][0]["torch"] == torch.__version__
    assert len(record["data"]["sha256"]) == 64


def test_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin = "train gan --data digits --batch-size 8 --device cpu"
    assert call(f"{begin} --steps 4 --out straight", capsys)[0] == 0
    assert call(f"{begin} --steps 2 --out run", capsys)[0] == 0
    code, output, _ = call("train --resume run", capsys)
    assert code == 0
    assert "run is done: 2 steps" in output
    before = (tmp_path / "run" / "run.json").read_text()
    for flags in ("cgan", "--lr 1", "--data fashion-mnist", "--no-channels-last"):
        name = flags.partition(" ")[0] if flags.startswith("--") else "MODEL"
        name = "--channels-last" if name == "--no-channels-last" else name
        assert f"{name} cannot be changed" in refused(f"train {flags} --resume run", capsys)
    assert "--data-dir nowhere: no such folder" in refused("train --resume run --data-dir nowhere", capsys)
    assert "has trained on cpu, whose dice it needs" in refused("train --resume run --device cuda", capsys)
    assert (tmp_path / "run" / "run.json").read_text() == before  # what was refused has changed nothing
    code, output, _ = call("train gan --resume run --steps 4", capsys)  # the run's own model may be named
    assert code == 0
    assert "goes on after step 2" in output
    assert same_training(tmp_path / "straight", tmp_path / "run")


def test_other_data_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for index, image in enumerate(noise_set(8).images):
        Image.fromarray(image[0].numpy()).save(images / f"{index}.png")
    assert call("train gan --data folder:images --steps 2 --batch-size 4 --out run --device cpu", capsys)[0] == 0
    before = (tmp_path / "run" / "run.json").read_text()
    Image.fromarray(noise_set(9).images[8, 0].numpy()).save(images / "new.png")
    assert "was trained on other data" in refused("train --resume run --steps 4", capsys)
    assert (tmp_path / "run" / "run.json").read_text() == before
    (images / "new.png").unlink()
    assert call("train --resume run --steps 4", capsys)[0] == 0


def test_a_conditional_model_wants_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    Image.new("L", (30, 30)).save(tmp_path / "images" / "a.png")
    errors = refused("train cgan --data folder:images --batch-size 1 --out run", capsys)
    assert "has no classes: put each in a subfolder, or train a gan or dcgan" in errors
    assert not (tmp_path / "run").exists()
