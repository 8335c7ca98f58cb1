"""The command line: what it writes, and that whatever is wrong is said in one line, with exit code 2."""

import builtins
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastgan.cli import main
from fastgan.data import datasets
from fastgan.evaluation import judge as judge_module
from fastgan.training import TrainConfig, load_checkpoint, save_checkpoint
from fastgan.training.loop import build_players


def write_run(folder: Path, model: str) -> Path:
    """A run folder with an untrained generator, as `fastgan train` leaves it."""
    players = build_players(TrainConfig(model, "digits"))
    folder.mkdir()
    content = {"config": {"model": model, "data": "digits"}, "step": 1}
    networks = {"generator": players.generator.state_dict(), "discriminator": players.discriminator.state_dict()}
    save_checkpoint(folder / "checkpoint.pt", content | networks)
    return folder


@pytest.fixture
def cgan(tmp_path: Path) -> Path:
    return write_run(tmp_path / "cgan", "cgan")


@pytest.fixture
def gan(tmp_path: Path) -> Path:
    return write_run(tmp_path / "gan", "gan")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTGAN_DATA", raising=False)
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path / "debian")


def call(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    capsys.readouterr()
    try:
        code = main(command.split())
    except SystemExit as stop:
        code = int(stop.code or 0)
    output = capsys.readouterr()
    return code, output.out, output.err


def refused(command: str, capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """The one line on stderr."""
    actual, _, errors = call(command, capsys)
    assert actual == code, errors
    assert errors.count("\n") == 1 and errors.endswith("\n"), errors
    assert errors.startswith("fastgan")
    assert "Traceback" not in errors
    return errors


TRAIN = "train gan --data digits --out run"
WRONG_TRAIN = {
    "": "COMMAND",
    "paint": "invalid choice: 'paint'",
    "train": "model",
    "train wgan --data digits": "invalid choice: 'wgan'",
    "train gan": "--data",
    "train gan --data cifar": "invalid choice: 'cifar'",
    f"{TRAIN} --colour red": "unrecognized arguments: --colour red",
    f"{TRAIN} --steps 0": "--steps: must be a whole number of at least 1, got '0'",
    f"{TRAIN} --steps ten": "--steps",
    f"{TRAIN} --epochs -1": "--epochs",
    f"{TRAIN} --minutes nan": "--minutes: must be a number above 0",
    f"{TRAIN} --minutes inf": "--minutes",
    f"{TRAIN} --batch-size 1.5": "--batch-size",
    f"{TRAIN} --batch-size 1501": "--batch-size 1501 is larger than the 1500 images of digits",
    f"{TRAIN} --seed -1": "--seed",
    f"{TRAIN} --seed 9223372036854775808": "--seed",
    f"{TRAIN} --lr 0": "--lr: must be a number above 0, got '0'",
    f"{TRAIN} --loss wasserstein": "invalid choice: 'wasserstein'",
    f"{TRAIN} --device tpu": "--device: must be cpu, cuda or cuda:N, got 'tpu'",
    f"{TRAIN} --device cuda:99": "cuda:99 is not there",
    f"{TRAIN} --data-dir nowhere": "--data-dir nowhere: no such folder",
    f"{TRAIN} --log-every 0": "--log-every",
    "train gan --data fashion-mnist --out run": "dataset-fashion-mnist",
}


@pytest.mark.parametrize("command", WRONG_TRAIN)
def test_wrong_train(command: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert WRONG_TRAIN[command] in refused(command, capsys)
    assert not (tmp_path / "run").exists()  # nothing is made before everything is known to be right


def test_wrong_run_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    assert "is a file" in refused("train gan --data digits --steps 1 --out file", capsys)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes").write_text("mine")
    assert "--overwrite" in refused(f"{TRAIN} --steps 1", capsys)
    assert "file/run" in refused("train gan --data digits --steps 1 --out file/run", capsys)


def test_wrong_sample(cgan: Path, gan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there.png").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "plain").write_text("mine")
    cases = {
        "sample": "RUN",
        "sample cgan": "--out",
        "sample nowhere --out a.png": "nowhere/checkpoint.pt: no such file",
        "sample cgan --out a.png --classes x": "--classes: must be class numbers",
        "sample cgan --out a.png --classes 1,10": "10 is not one of 0 to 9",
        "sample cgan --out a.png --classes -1": "--classes",
        "sample cgan --out a.png --n 0": "--n",
        "sample cgan --out a.png --n 64": "--n 64 does not divide into 10 classes",
        "sample cgan --out there.png": "there.png exists",
        "sample cgan --out folder.png": "is a folder",
        "sample cgan --out plain": "is a file that does not end in .png",
        "sample cgan --out no/such/a.png": "there is no folder no/such",
        "sample gan --out a.png --classes 1": "unconditional gan: there is no class to ask for",
    }
    for command, message in cases.items():
        assert message in refused(command, capsys), command
    assert (tmp_path / "there.png").read_text() == "mine"
    assert not (tmp_path / "a.png").exists()


def test_wrong_evaluate(cgan: Path, gan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        "evaluate nowhere": "no such file",
        "evaluate gan": "there is no class to ask for",
        "evaluate cgan --samples 11": "--samples 11 does not divide into 10 classes",
        "evaluate cgan --data-dir nowhere": "no such folder",
    }
    for command, message in cases.items():
        assert message in refused(command, capsys), command


def test_damaged_and_foreign_checkpoints(cgan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cgan / "checkpoint.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    assert "truncated" in refused("sample cgan --out a.png", capsys)
    path.write_bytes(whole[:1000] + b"!" + whole[1001:])
    assert "damaged" in refused("evaluate cgan", capsys)
    networks = {"generator": {}, "discriminator": {}, "step": 1}
    save_checkpoint(path, {"config": {"model": "biggan"}} | networks)
    assert "'biggan'" in refused("sample cgan --out a.png", capsys)
    save_checkpoint(path, {"config": {"model": "cgan"}} | networks)
    assert "weights are not those" in refused("sample cgan --out a.png", capsys)
    save_checkpoint(path, {"step": 1})
    assert "has no config" in refused("sample cgan --out a.png", capsys)


@pytest.mark.parametrize(("module", "package"), [("PIL", "pillow"), ("sklearn", "scikit-learn")])
def test_missing_extras(
    module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before anything of an older run is touched."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_text("precious")
    for name in [name for name in sys.modules if name.partition(".")[0] in (module, "fastgan")]:
        if name.partition(".")[0] == module or name in ("fastgan.training.loop", "fastgan.training.recorder"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "fastgan.training.grid", raising=False)
    real_import = builtins.__import__

    def without(name, *args, **kwargs):  # type: ignore[no-untyped-def]
        if name.partition(".")[0] == module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    errors = refused(f"{TRAIN} --steps 1 --overwrite", capsys)
    assert f"{package} is not installed: pip install 'fastgan[train]'" in errors
    assert (tmp_path / "run" / "checkpoint.pt").read_text() == "precious"


def test_train_then_sample_then_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = call(f"{TRAIN} --steps 2 --batch-size 8 --device cpu", capsys)
    assert code == 0
    assert "1500 images of digits from scikit-learn" in output
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 2
    assert call("sample run --out grid.png --n 16 --seed 5", capsys)[0] == 0
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (8 * 30 - 2, 2 * 30 - 2)
        assert picture.text["Description"].endswith("model gan, seed 5")
    assert call(f"{TRAIN} --steps 1 --batch-size 8 --device cpu --overwrite", capsys)[0] == 0
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 1


def test_sample_gives_a_row_to_each_class(cgan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("sample cgan --out grid.png --classes 0,3 --n 64 --seed 1", capsys)[0] == 0
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (32 * 30 - 2, 2 * 30 - 2)
    assert call("sample cgan --out all.png", capsys)[0] == 0
    with Image.open(tmp_path / "all.png") as picture:
        assert picture.size == (10 * 30 - 2, 10 * 30 - 2)
    assert call("sample cgan --out many --classes 4,2 --n 4", capsys)[0] == 0
    names = sorted(path.name for path in (tmp_path / "many").iterdir())
    assert names == ["00000-class4.png", "00001-class4.png", "00002-class2.png", "00003-class2.png"]
    assert "exists" in refused("sample cgan --out many --classes 4,2 --n 4", capsys)
    assert call("sample cgan --out many --classes 4,2 --n 4 --overwrite", capsys)[0] == 0
    first = (tmp_path / "many" / "00000-class4.png").read_bytes()
    assert call("sample cgan --out other --classes 4,2 --n 4 --seed 9", capsys)[0] == 0
    assert (tmp_path / "other" / "00000-class4.png").read_bytes() != first


def test_evaluate(cgan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(judge_module.EPOCHS, "digits", 1)
    code, output, _ = call("evaluate cgan --samples 100 --seed 3", capsys)
    assert code == 0
    record = json.loads((cgan / "evaluation.json").read_text())
    assert len(record["class_accuracy"]["per_class"]) == 10
    assert 0 <= record["class_accuracy"]["total"] <= 1
    assert record["protocol"]["samples"] == 100
    assert record["protocol"]["seed"] == 3
    assert 0 < record["protocol"]["judge_test_accuracy"] <= 1
    assert f"all   {record['class_accuracy']['total']:6.1%}" in output
    assert (cgan / "judge.pt").exists()


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(Exception, match="no such file"):
        main(["sample", "nowhere", "--out", "a.png", "--debug"])


def test_exit_codes_of_a_failing_training(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not finite any more" in refused(f"{TRAIN} --steps 50 --batch-size 8 --lr 1e38 --device cpu", capsys, code=1)


def test_verify_and_info_get_their_own_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("verify", "info"):
        module = type(sys)(f"fastgan.{name}")
        module.main = lambda arguments, name=name: len(arguments) if arguments[0] == f"--{name}-flag" else -1
        monkeypatch.setitem(sys.modules, f"fastgan.{name}", module)
        assert main([name, f"--{name}-flag", "x", "y"]) == 3


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = call("--help", capsys)
    assert code == 0
    assert all(command in output for command in ("train", "sample", "evaluate", "verify", "info"))
    assert call("--version", capsys)[1].startswith("fastgan ")
    for command in ("train", "sample", "evaluate"):
        assert call(f"{command} --help", capsys)[0] == 0


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastgan.cli", "sample", "nowhere", "--out", "a.png"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_the_global_thread_count_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    call(f"{TRAIN} --steps 1 --batch-size 8 --device cpu", capsys)
    assert torch.get_num_threads() == threads
