"""``fastgan sample`` and ``export``: pictures, files, and what is refused."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from fastgan.training import load_checkpoint, save_checkpoint
from tests.commands.calls import call, refused
from tests.training.runs import equal

TRAIN = "train gan --data digits --out run"


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
        assert picture.size == (16 * 30 - 2, 4 * 30 - 2)
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
    content["class_names"] = ["0", "1", "10", "11", "2", "3", "4", "5", "6", "7"]  # as folders are sorted
    save_checkpoint(cgan / "checkpoint.pt", content)
    assert call("sample cgan --out folder --classes 2,10,9 --n 3", capsys)[0] == 0
    assert sorted(path.name for path in (cgan.parent / "folder").iterdir()) == [
        "00000-class4.png",
        "00001-class2.png",
        "00002-class9.png",
    ]
    with Image.open(cgan.parent / "folder" / "00000-class4.png") as picture:
        assert picture.text["Description"].endswith("class 2, image 0")
    content["class_names"] = ["T-shirt", *"123456789"]
    save_checkpoint(cgan / "checkpoint.pt", content)
    assert "'coat' is not one of 0 T-shirt, 1, 2" in refused("sample cgan --out b.png --classes coat", capsys)
