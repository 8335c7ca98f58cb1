"""``fastgan evaluate``: what it writes and what it refuses."""

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.commands.calls import call, refused, write_run

pytestmark = pytest.mark.xdist_group("commands-evaluate")


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for the whole module: the judge of the digits is trained once, by whichever test comes first."""
    return tmp_path_factory.mktemp("judges")


@pytest.fixture(autouse=True)
def kept_judges(nowhere: None, judges: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(judges))


def test_wrong_evaluate(cgan: Path, gan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cases = {
        "evaluate nowhere": "no such file",
        "evaluate cgan/checkpoint.pt": "--out: name a folder for the results",
        "evaluate cgan --out plain": "plain is a file",
        "evaluate cgan --fid": "FID needs",
        "evaluate cgan --fid-weights nowhere": "nowhere",
        "evaluate cgan --samples 11": "--samples 11 does not divide into 10 classes",
        "evaluate cgan --data-dir nowhere": "no such folder",
    }
    (tmp_path / "plain").write_text("mine")
    for command, message in cases.items():
        assert message in refused(command, capsys), command
    assert not (cgan / "evaluation.json").exists()


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


def test_what_does_not_fit_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder with other classes than the run was trained on, and one without any."""
    for split in ("train", "test"):
        for name in ("cats", "dogs"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            Image.new("L", (30, 30)).save(tmp_path / "images" / split / name / "a.png")
    write_run(tmp_path / "run", "cgan")
    assert "10 classes" in refused("evaluate run --data folder:images", capsys)
    (tmp_path / "plain").mkdir()
    Image.new("L", (30, 30)).save(tmp_path / "plain" / "a.png")
    assert "has no classes, so no judge can learn from it" in refused("evaluate run --data folder:plain", capsys)
    assert "FID needs" in refused("evaluate run --data folder:plain --fid", capsys)
