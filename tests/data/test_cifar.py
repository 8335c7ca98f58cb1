"""CIFAR-10: both versions, as folders and archives, give the same tensors; damage and attacks are refused."""

import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgan.data import DataError, ImageSet, cifar, load
from fastgan.data.cifar_pickle import read_batch

from .writers import binary_batch, cifar_batch, cifar_contents, python2_pickle, python3_pickle, tar_gz, write_cifar

FORMS = ["python2", "python3", "binary"]
BATCH = "cifar-10-batches-py/data_batch_3"


def load_cifar(place: Path, split: str = "train", size: int = 32, channels: int = 3) -> ImageSet:
    data = load("cifar-10", split, size, channels, place)  # type: ignore[arg-type]
    assert isinstance(data, ImageSet)
    return data


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "archive"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same(tmp_path: Path, form: str, archive: bool) -> None:
    source = write_cifar(tmp_path, form, archive)
    train, test = load_cifar(tmp_path), load_cifar(tmp_path, "test")
    batches = [cifar_batch(i) for i in range(6)]
    assert train.images.dtype == torch.uint8
    assert torch.equal(train.images, torch.cat([pixels for pixels, _ in batches[:5]]).view(20, 3, 32, 32))
    assert train.labels.tolist() == [label for _, labels in batches[:5] for label in labels]
    assert torch.equal(test.images, batches[5][0].view(4, 3, 32, 32))
    assert train.origin == str(source)
    assert (train.name, train.classes, train.class_names[9]) == ("cifar-10", 10, "truck")
    assert (train.channels, train.image_size) == (3, 32)
    write_cifar(tmp_path / "other", "python2")
    assert train.digest == load_cifar(tmp_path / "other").digest != test.digest
    if not archive:  # the folder itself can be named, too
        assert load_cifar(source).digest == train.digest


def test_planes_are_red_green_and_blue_rows(tmp_path: Path) -> None:
    pixels = torch.zeros(1, 3072, dtype=torch.uint8)
    pixels[0, 1024 + 2 * 32 + 5] = 200  # green, row 2, column 5
    folder = write_cifar(tmp_path, "binary")
    (folder / "test_batch.bin").write_bytes(binary_batch(pixels, [3]))
    assert load_cifar(tmp_path, "test").images.nonzero().tolist() == [[0, 1, 2, 5]]
    pytest.importorskip("torchvision")
    grey = load_cifar(tmp_path, "test", channels=1).images
    assert grey.shape == (1, 1, 32, 32)
    assert abs(int(grey[0, 0, 2, 5]) - 0.587 * 200) <= 1


@pytest.mark.parametrize(("size", "channels"), [(64, 3), (28, 1)])
def test_other_sizes(tmp_path: Path, size: int, channels: int) -> None:
    if channels == 1:
        pytest.importorskip("torchvision")
    folder = write_cifar(tmp_path, "binary")
    flat = torch.full((2, 3072), 77, dtype=torch.uint8)
    (folder / "test_batch.bin").write_bytes(binary_batch(flat, [0, 9]))
    images = load_cifar(tmp_path, "test", size, channels).images
    assert images.shape == (2, channels, size, size)
    assert images.is_contiguous()
    assert (images.int() - 77).abs().max() <= 1


def test_a_shrunk_image_is_antialiased(tmp_path: Path) -> None:
    """A chequerboard becomes grey, where plain sampling keeps black and white."""
    folder = write_cifar(tmp_path, "binary")
    board = ((torch.arange(32)[:, None] + torch.arange(32)) % 2 * 255).to(torch.uint8).expand(3, 32, 32).reshape(1, -1)
    (folder / "test_batch.bin").write_bytes(binary_batch(board, [0]))
    assert (load_cifar(tmp_path, "test", 8).images.int() - 127).abs().max() < 20


def refusal(place: Path, split: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        load_cifar(place, split)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Hostile:
    """Its pickle asks for a function of the operating system to be called."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


def test_a_hostile_pickle_runs_nothing(tmp_path: Path) -> None:
    folder, proof = write_cifar(tmp_path, "python2"), tmp_path / "proof"
    attack = pickle.dumps({b"data": Hostile(f"touch {proof}"), b"labels": [0]}, protocol=2)
    pickle.loads(attack)
    assert proof.exists()  # the attack works on the ordinary reader
    proof.unlink()
    (folder / "data_batch_3").write_bytes(attack)
    message = refusal(tmp_path)
    assert str(folder / "data_batch_3") in message
    assert "system" in message
    assert not proof.exists()
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(tar_gz({**cifar_contents("python2"), BATCH: attack}))
    for file in folder.iterdir():
        file.unlink()
    message = refusal(tmp_path)
    assert "cifar-10-python.tar.gz" in message
    assert "data_batch_3" in message
    assert not proof.exists()


GLOBALS = ["builtins\neval", "numpy\nload", "numpy\nfromfile", "numpy.core\nmultiarray._reconstruct", "os\nsystem"]


@pytest.mark.parametrize("name", GLOBALS)
def test_no_other_name_is_looked_up(name: str) -> None:
    with pytest.raises(ValueError, match="which no dataset needs"):
        read_batch(b"\x80\x02c" + name.encode() + b"\n.")


PIXELS, LABELS = cifar_batch(0)
GOOD = python2_pickle(PIXELS, LABELS)
BAD_PICKLES = {
    "empty": b"",
    "cut": GOOD[:-100],
    "cut in the header": GOOD[:30],
    "flipped header": b"\x00" + GOOD[1:],
    "other protocol": GOOD.replace(b"\x80\x02", b"\x80\xff", 1),
    "not a dictionary": pickle.dumps([1, 2], 2),
    "no labels": pickle.dumps({b"data": np.asarray(PIXELS)}, 2),
    "text labels": pickle.dumps({b"data": np.asarray(PIXELS), b"labels": ["a"] * 4}, 2),
    "labels that are true": pickle.dumps({b"data": np.asarray(PIXELS), b"labels": [True] * 4}, 2),
    "a large label": pickle.dumps({b"data": np.asarray(PIXELS), b"labels": [1 << 40] * 4}, 2),
    "a list for the array": pickle.dumps({b"data": [0] * 3072, b"labels": [0]}, 2),
    "floats": python3_pickle(PIXELS.float(), LABELS),
    "objects": pickle.dumps({b"data": np.array([[None] * 3072]), b"labels": [0]}, 2),
    "three columns": python3_pickle(PIXELS[:, :3].contiguous(), LABELS),
    "columns first": pickle.dumps({b"data": np.asfortranarray(PIXELS), b"labels": LABELS}, 2),
    "more rows than bytes": GOOD.replace(b"K\x01M\x04\x00M\x00\x0c", b"K\x01M\x05\x00M\x00\x0c"),
    "a memo of 17 GB": b"\x80\x02}r" + struct.pack("<I", 0x7FFFFFFF) + b".",
    "a state for a class": b"\x80\x02cnumpy\nndarray\n}b.",
    "an array without a state": b"\x80\x02}(U\x04datacnumpy\nndarray\n)RU\x06labels]u.",
    "persistent id": b"\x80\x02Pname\n.",
    "text in bytes": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x06\x00\x00\x00rot_13\x86R.",
}


@pytest.mark.parametrize("name", BAD_PICKLES)
def test_refuses_a_damaged_pickle(tmp_path: Path, name: str) -> None:
    folder = write_cifar(tmp_path, "python2")
    (folder / "test_batch").write_bytes(BAD_PICKLES[name])
    assert str(folder / "test_batch") in refusal(tmp_path, "test")


BAD_BINARIES = {
    "empty": (b"", "whole number of records"),
    "cut": (binary_batch(PIXELS, LABELS)[:-1], "whole number of records"),
    "longer": (binary_batch(PIXELS, LABELS) + b"\0", "whole number of records"),
    "label 10": (binary_batch(PIXELS, [0, 10, 0, 0]), "label 10 is not one of 0 to 9"),
}


@pytest.mark.parametrize("name", BAD_BINARIES)
def test_refuses_a_damaged_binary(tmp_path: Path, name: str) -> None:
    folder = write_cifar(tmp_path, "binary")
    data, problem = BAD_BINARIES[name]
    (folder / "test_batch.bin").write_bytes(data)
    message = refusal(tmp_path, "test")
    assert str(folder / "test_batch.bin") in message
    assert problem in message


def test_refuses_wrong_labels_and_missing_batches(tmp_path: Path) -> None:
    folder = write_cifar(tmp_path, "python2")
    (folder / "data_batch_2").write_bytes(python2_pickle(PIXELS, LABELS[:3]))
    assert "data_batch_2: 3 labels for 4 images" in refusal(tmp_path)
    (folder / "data_batch_2").write_bytes(python2_pickle(PIXELS, [0, 1, 2, 10]))
    assert "data_batch_2: label 10 is not one of" in refusal(tmp_path)
    (folder / "data_batch_2").unlink()
    assert f"{folder / 'data_batch_2'}: cannot be read" in refusal(tmp_path)


def test_refuses_what_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_cifar(tmp_path / "folder", "binary")
    archive = write_cifar(tmp_path / "archive", "binary", archive=True)
    monkeypatch.setattr(cifar, "LARGEST_BATCH", 4 * 3073 - 1)
    assert f"{folder / 'data_batch_1.bin'}: more than" in refusal(tmp_path / "folder")
    assert f"{archive}: cifar-10-batches-bin/data_batch_1.bin: more than" in refusal(tmp_path / "archive")
    monkeypatch.undo()
    monkeypatch.setattr(cifar, "LARGEST_ARCHIVE", 1 << 16)
    archive.write_bytes(tar_gz({"zeros": bytes(1 << 20), **cifar_contents("binary")}))
    assert f"{archive}: cannot be read: it unpacks to more than" in refusal(tmp_path / "archive")


def test_refuses_a_damaged_archive(tmp_path: Path) -> None:
    whole = write_cifar(tmp_path, "binary", archive=True).read_bytes()
    archive = tmp_path / "cifar-10-binary.tar.gz"
    checksum = bytearray(whole)
    checksum[-6] ^= 1
    middle = bytearray(whole)
    middle[len(whole) // 2] ^= 0xFF
    plain = gzip.decompress(whole)
    cut_inside = gzip.compress(plain[: len(plain) // 2])
    for data in (b"", whole[:-5], whole[: len(whole) // 2], bytes(checksum), bytes(middle), b"<html>404", cut_inside):
        archive.write_bytes(data)
        assert refusal(tmp_path).startswith(f"{archive}: ")
    contents = cifar_contents("binary")
    del contents["cifar-10-batches-bin/data_batch_5.bin"]
    archive.write_bytes(tar_gz(contents))
    assert "data_batch_5.bin is not in it" in refusal(tmp_path)


SMALL = python2_pickle(*cifar_batch(0, count=1))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(SMALL) - 1), st.integers(0, 255), st.booleans())
def test_a_changed_byte_is_read_or_refused(position: int, value: int, near_the_end: bool) -> None:
    # most bytes are pixels, where every change is a picture: so mostly change the program around them
    position = position % 200 if not near_the_end else len(SMALL) - 1 - position % 60
    data = SMALL[:position] + bytes([value]) + SMALL[position + 1 :]
    try:
        images, _ = read_batch(data)
    except ValueError:
        return
    assert images.shape == (1, 3072)
