"""The command line: what it writes, and that whatever is wrong is said in one line, with exit code 2."""

import builtins
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastgan.cli import app, main
from fastgan.data import DataError, datasets
from fastgan.training import TrainConfig, load_checkpoint, save_checkpoint
from fastgan.training.draws import Draws
from fastgan.training.loop import build_players
from fastgan.training.run_folder import write_run_json
from fastgan.training.state import save_state
from tests.training.runs import equal, noise_set, same_training


def write_run(folder: Path, model: str) -> Path:
    """A run folder with an untrained generator, as `fastgan train` leaves it."""
    config = TrainConfig(model, "digits", steps=1)
    players = build_players(config, 10)
    folder.mkdir()
    write_run_json(folder, config, noise_set())
    save_state(folder, config, players, Draws(config, noise_set(200), 100, model == "cgan"), 1, 1.0, None)
    return folder


@pytest.fixture
def cgan(tmp_path: Path) -> Path:
    return write_run(tmp_path / "cgan", "cgan")


@pytest.fixture
def gan(tmp_path: Path) -> Path:
    return write_run(tmp_path / "gan", "gan")


def _offline(*_: object) -> None:
    raise DataError("no network in tests; install dataset-fashion-mnist")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTGAN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(datasets, "download", _offline)


def call(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    capsys.readouterr()
    code = main(command.split())
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
    "train gan --resume gan": "MODEL cannot be changed",
    "train --resume gan --lr 1": "--lr cannot be changed",
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


def test_wrong_sample(cgan: Path, gan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there.png").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "plain").write_text("mine")
    cases = {
        "sample": "Missing argument 'RUN'",
        "sample cgan": "Missing option '--out'",
        "sample nowhere --out a.png": "nowhere/checkpoint.pt: no such file",
        "sample cgan --out a.png --classes x": "--classes: 'x' is not one of 0, 1, 2",
        "sample cgan --out a.png --classes 1,10": "'10' is not one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
        "sample cgan --out a.png --classes -1": "--classes",
        "sample cgan --out a.png --n 0": "--n",
        "sample cgan --out a.png --n 64": "--n 64 does not divide into 10 classes",
        "sample cgan --out there.png": "there.png exists",
        "sample cgan --out folder.png": "is a folder",
        "sample cgan --out plain": "is a file that ends in neither .png nor .gif",
        "sample cgan --out a.jpg": "a file must end in .png or .gif",
        "sample cgan --out a.gif --frames 1": "--frames",
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
        "evaluate cgan/checkpoint.pt": "--out: name a folder for the results",
        "evaluate cgan --out plain": "plain is a file",
        "evaluate cgan --fid": "FID needs Inception weights",
        "evaluate cgan --fid-weights nowhere": "nowhere",
        "evaluate cgan --samples 11": "--samples 11 does not divide into 10 classes",
        "evaluate cgan --data-dir nowhere": "no such folder",
    }
    (tmp_path / "plain").write_text("mine")
    for command, message in cases.items():
        assert message in refused(command, capsys), command
    assert not (cgan / "evaluation.json").exists()


def test_damaged_and_foreign_checkpoints(cgan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = cgan / "checkpoint.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    assert "truncated" in refused("sample cgan --out a.png", capsys)
    path.write_bytes(whole[:1000] + b"!" + whole[1001:])
    assert "damaged" in refused("evaluate cgan", capsys)
    networks = {"generator": {}, "class_names": [], "step": 1}
    save_checkpoint(path, {"config": {"model": "biggan", "data": "digits"}} | networks)
    assert "model must be one of gan, dcgan, cgan, got 'biggan'" in refused("sample cgan --out a.png", capsys)
    save_checkpoint(path, {"config": {"model": "gan", "data": "digits", "colour": 1}} | networks)
    assert "colour is not a setting that this fastgan knows" in refused("sample cgan --out a.png", capsys)
    save_checkpoint(path, {"config": {"model": "gan", "data": "digits"}} | networks)
    assert "weights are not those" in refused("sample cgan --out a.png", capsys)
    save_checkpoint(path, {"step": 1})
    assert "has no config" in refused("sample cgan --out a.png", capsys)


@pytest.mark.parametrize(
    ("module", "package"), [("PIL", "pillow"), ("sklearn", "scikit-learn"), ("tensorboard", "tensorboard")]
)
def test_missing_extras(
    module: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before anything of an older run is touched."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_text("precious")
    for name in [name for name in sys.modules if name.partition(".")[0] in (module, "fastgan")]:
        late = ("loop", "recorder", "pictures", "curves")
        if name.partition(".")[0] == module or name in [f"fastgan.training.{part}" for part in late]:
            monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
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
        assert picture.text["Description"].endswith("model gan, seed 5, step 2")
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


def test_evaluate(cgan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, output, errors = call("evaluate cgan --samples 100 --seed 3", capsys)
    assert (code, errors) == (0, "")
    record = json.loads((cgan / "evaluation.json").read_text())
    assert len(record["class_accuracy"]["per_class"]) == 10
    assert 0 <= record["class_accuracy"]["total"] <= 1
    assert record["protocol"]["samples"] == 100
    assert record["protocol"]["seed"] == 3
    assert 0.9 < record["judge_accuracy"] <= 1
    assert record["frechet"]["distance"] > 10 * record["frechet"]["floor"] > 0
    assert record["run"]["config"]["model"] == "cgan"
    assert f"{record['class_accuracy']['total']:6.1%}  all, of 100 samples" in output
    with Image.open(cgan / "confusion.png") as picture:
        assert "confusion matrix" in picture.text["Description"]


def test_evaluate_an_unconditional_model(gan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a file, into another folder: no class is asked for, so there is no confusion."""
    assert call("export gan --out gan.safetensors", capsys)[0] == 0
    code, output, _ = call("evaluate gan.safetensors --out results --samples 64", capsys)
    assert code == 0
    record = json.loads((tmp_path / "results" / "evaluation.json").read_text())
    assert record["class_accuracy"] is None
    assert sum(record["class_shares"]) == pytest.approx(1)
    assert "that the judge takes for" in output
    assert not (tmp_path / "results" / "confusion.png").exists()


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(Exception, match="no such file"):
        main(["sample", "nowhere", "--out", "a.png", "--debug"])


def test_exit_codes_of_a_failing_training(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not finite" in refused(f"{TRAIN} --steps 50 --batch-size 8 --lr 1e38 --device cpu", capsys, code=1)


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, output, _ = call("--help", capsys)
    assert code == 0
    assert all(command in output for command in ("train", "sample", "evaluate", "verify", "info"))
    assert call("--version", capsys)[1].startswith("fastgan ")


COMMANDS = sorted(command.callback.__name__ for command in app.registered_commands)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen_and_its_examples_are_right(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    code, output, _ = call(f"{command} --help", capsys)
    assert code == 0
    assert len(output.splitlines()) <= 45
    options = set(re.findall(r"--[a-z-]+", call(f"{command} --help", capsys)[1].partition("Examples:")[0]))
    examples = [line.split() for line in output.partition("Examples:")[2].splitlines() if line.strip()]
    assert examples or command == "info"
    for words in examples:
        assert words[0] == "fastgan" and words[1] in COMMANDS
        if words[1] == command:
            assert {word for word in words if word.startswith("--")} <= options


def test_completion(tmp_path: Path) -> None:
    """What bash asks for when the user presses the tab key."""

    def complete(words: str) -> list[str]:
        asked = {
            "_FASTGAN_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        }
        environment = {**os.environ, **asked, "PYTHONPATH": str(Path(__file__).parents[1])}
        code = "import sys; from fastgan.cli import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    assert {"train", "sample", "evaluate", "export"} <= set(complete("fastgan "))
    assert complete("fastgan train --la") == ["--label-smoothing"]
    assert complete("fastgan train gan --data fa") == ["fashion-mnist"]


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


def test_a_run_is_done_again_from_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = "train dcgan --data digits --steps 2 --batch-size 4 --seed 7 --d-steps 2 --label-smoothing 0.1 --device cpu"
    assert call(f"{first} --out first", capsys)[0] == 0
    assert call("train --config first --out again", capsys)[0] == 0
    assert same_training(tmp_path / "first", tmp_path / "again")
    assert call("train --config first/run.json --out other --seed 8", capsys)[0] == 0
    assert not same_training(tmp_path / "first", tmp_path / "other")
    record = json.loads((tmp_path / "again" / "run.json").read_text())
    assert record["config"]["label_smoothing"] == 0.1
    assert record["versions"]["torch"] == torch.__version__
    assert len(record["data"]["sha256"]) == 64


def test_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    begin = "train gan --data digits --batch-size 8 --device cpu"
    assert call(f"{begin} --steps 4 --out straight", capsys)[0] == 0
    assert call(f"{begin} --steps 2 --out run", capsys)[0] == 0
    code, output, _ = call("train --resume run", capsys)
    assert code == 0
    assert "run is done: 2 steps" in output
    code, output, _ = call("train --resume run --steps 4", capsys)
    assert code == 0
    assert "goes on after step 2" in output
    assert same_training(tmp_path / "straight", tmp_path / "run")


def test_export_and_back(cgan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("export cgan --out a.safetensors", capsys)[0] == 0
    for source in ("cgan", "cgan/checkpoint.pt", "a.safetensors"):
        name = f"{source.replace('/', '-')}.png"
        assert call(f"sample {source} --out {name} --seed 2", capsys)[0] == 0
        with Image.open(tmp_path / name) as picture, Image.open(tmp_path / "cgan.png") as first:
            assert picture.tobytes() == first.tobytes()
    assert "exists" in refused("export cgan --out a.safetensors", capsys)
    assert "must end in .safetensors" in refused("export cgan --out a.pt", capsys)
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(whole[:5000])
    assert "damaged" in refused("sample a.safetensors --out b.png", capsys)
    (tmp_path / "a.safetensors").write_bytes(whole[:-1000] + bytes([whole[-1000] ^ 1]) + whole[-999:])
    assert "damaged" in refused("sample a.safetensors --out b.png", capsys)
    from safetensors.torch import load_file, save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    assert "not a generator that 'fastgan export' wrote" in refused("sample other.safetensors --out b.png", capsys)
    (tmp_path / "a.safetensors").write_bytes(whole)
    assert equal(load_file(tmp_path / "a.safetensors"), dict(load_checkpoint(cgan / "checkpoint.pt")["generator"]))


def test_interpolation(cgan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("sample cgan --out walk.gif --classes 1,2 --n 6 --frames 5 --seed 4", capsys)[0] == 0
    assert call("sample cgan --out still.png --classes 1,2 --n 6 --seed 4", capsys)[0] == 0
    with Image.open(tmp_path / "walk.gif") as picture, Image.open(tmp_path / "still.png") as still:
        assert picture.n_frames == 5
        assert picture.size == still.size
        assert b"generated by fastgan" in picture.info["comment"]
        frames = []
        for number in range(5):
            picture.seek(number)
            frames.append(picture.convert("L").tobytes())
        assert frames[0] == still.tobytes()  # it begins at the samples of that seed
        assert len(set(frames)) == 5


def test_class_names_are_understood(cgan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = load_checkpoint(cgan / "checkpoint.pt")
    content["class_names"] = ["T-shirt", *"123456789"]
    save_checkpoint(cgan / "checkpoint.pt", content)
    code, output, _ = call("sample cgan --out a.png --classes t-shirt,0,3", capsys)
    assert code == 0
    assert "30 images" in output
    assert "'coat' is not one of 0 T-shirt, 1, 2" in refused("sample cgan --out b.png --classes coat", capsys)
