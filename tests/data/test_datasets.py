"""Digits and Fashion-MNIST: the forms that the models want, the places looked at, and what is refused."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastgan.data import DATASETS, DataError, ImageSet, datasets, load

from .writers import write_cifar, write_fashion

REAL = datasets.DEBIAN_FOLDER
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"{datasets.DEBIAN_PACKAGE} is not installed")


def load_set(name: str, split: str, size: int, channels: int, data_dir: Path | None = None) -> ImageSet:
    data = load(name, split, size, channels, data_dir)  # type: ignore[arg-type]
    assert isinstance(data, ImageSet)
    return data


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3)])
def test_digits(size: int, channels: int) -> None:
    train, test = load_set("digits", "train", size, channels), load_set("digits", "test", size, channels)
    assert (len(train), len(test)) == (1500, 297)
    assert train.images.shape == (1500, channels, size, size)
    assert train.images.dtype == torch.uint8
    assert (int(train.images.min()), int(train.images.max())) == (0, 255)
    assert train.labels.dtype == torch.int64
    assert train.labels[:10].tolist() == list(range(10))
    assert all(torch.equal(train.images[:, 0], train.images[:, c]) for c in range(channels))


def test_digits_are_those_that_scikit_learn_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read; were it not where it is, scikit-learn would be asked."""
    ours = {split: load_set("digits", split, 8, 1) for split in ("train", "test")}
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "sklearn" else find_spec(name, *rest)
    )
    for split, data in ours.items():
        asked = load_set("digits", split, 8, 1)
        assert asked.digest == data.digest and asked.origin == data.origin
        assert asked.labels.dtype == data.labels.dtype


def test_fashion_is_framed_and_repeated(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    data = load_set("fashion-mnist", "train", 32, 3, tmp_path)
    assert data.images.shape == (12, 3, 32, 32)
    image = data.images[7]
    assert image[:, 2:30, 2:30].eq(7).all()
    assert image.sum() == 7 * 3 * 28 * 28  # the frame is black
    assert data.origin == str(tmp_path)
    plain = load_set("fashion-mnist", "train", 28, 1, tmp_path)
    assert plain.images.shape == (12, 1, 28, 28)
    assert plain.labels.tolist() == [i % 10 for i in range(12)]


def test_places_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flag, variable, debian = tmp_path / "flag", tmp_path / "variable", tmp_path / "debian"
    write_fashion(debian)
    assert load("fashion-mnist", "train", 28, 1).origin == str(debian)
    write_fashion(variable)
    monkeypatch.setenv("FASTGAN_DATA", str(variable))
    assert load("fashion-mnist", "train", 28, 1).origin == str(variable)
    write_fashion(flag)
    assert load("fashion-mnist", "train", 28, 1, flag).origin == str(flag)


def test_the_subfolders_of_a_place(tmp_path: Path) -> None:
    for folder in ("fashion-mnist", "FashionMNIST/raw"):
        place = tmp_path / folder[:7]
        write_fashion(place / folder)
        assert load("fashion-mnist", "train", 28, 1, place).origin == str(place / folder)
    for form in ("binary", "python2"):  # if both are there, the Python version, which is what is downloaded
        source = write_cifar(tmp_path / "cifar", form)
        assert load("cifar-10", "train", 32, 3, tmp_path / "cifar").origin == str(source)


def test_places_of_cifar_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = write_cifar(tmp_path / "cache" / "fastgan" / "cifar-10", "python2", archive=True)
    assert load("cifar-10", "train", 32, 3).origin == str(kept)
    monkeypatch.setenv("FASTGAN_DATA", str(tmp_path / "variable"))
    assert load("cifar-10", "train", 32, 3).origin == str(kept)  # the variable's folder has other sets, perhaps
    named = write_cifar(tmp_path / "variable", "binary")
    assert load("cifar-10", "train", 32, 3).origin == str(named)


def test_missing_names_every_place_and_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTGAN_DATA", "/variable")
    options = ("/variable", str(tmp_path / "cache" / "fastgan"), "--data-dir", "FASTGAN_DATA", "no network in tests")
    debian = (str(tmp_path / "debian"), "dataset-fashion-mnist")
    for name in ("fashion-mnist", "cifar-10"):
        with pytest.raises(DataError) as caught:
            load(name, "train", 28, 1)
        message = str(caught.value)
        assert message.startswith(f"no {name} in ")
        assert "\n" not in message
        assert all(part in message for part in options)
        assert all((part in message) == (name == "fashion-mnist") for part in debian)


def test_a_named_folder_without_the_data_is_an_error(tmp_path: Path) -> None:
    """Even if the data is elsewhere: whoever names a folder wants that one."""
    write_fashion(tmp_path / "debian")
    write_cifar(tmp_path / "cache" / "fastgan" / "cifar-10", "binary")
    empty = tmp_path / "empty"
    for name, wanted in {"fashion-mnist": "train-images-idx3-ubyte", "cifar-10": "cifar-10-python.tar.gz"}.items():
        with pytest.raises(DataError, match=f"{empty}: no {name} .*{wanted}"):
            load(name, "train", 28, 1, empty)


def test_refuses_a_broken_set(tmp_path: Path) -> None:
    cases = {
        "label 10 is not one of": {"labels": [10] * 12},
        "11 labels for the 12 images": {"labels": [0] * 11},
        "images of 27x27 pixels": {"side": 27},
    }
    for message, options in cases.items():
        write_fashion(tmp_path, **options)  # type: ignore[arg-type]
        with pytest.raises(DataError, match=message):
            load("fashion-mnist", "train", 28, 1, tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="train-labels-idx1-ubyte: missing"):
        load("fashion-mnist", "train", 28, 1, tmp_path)


def test_refuses_unknown_names_and_channels() -> None:
    with pytest.raises(
        DataError, match="unknown dataset 'cifar': choose one of digits, fashion-mnist, cifar-10, folder:"
    ):
        load("cifar", "train", 28, 1)
    with pytest.raises(DataError, match="channels=2"):
        load("digits", "train", 28, 2)


@pytest.mark.parametrize("size", [14, 29])
def test_fashion_in_odd_and_smaller_sizes(tmp_path: Path, size: int) -> None:
    write_fashion(tmp_path)
    images = load_set("fashion-mnist", "train", size, 1, tmp_path).images
    assert images.shape == (12, 1, size, size)
    assert images[7, 0, :28, :28].eq(7).all()


def test_the_names_of_the_classes(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    write_cifar(tmp_path, "binary")
    names = [load_set(name, "train", 32, 3, tmp_path).class_names for name in DATASETS]
    assert names[0] == tuple("0123456789")
    assert (names[1][0], names[1][9]) == ("T-shirt/top", "Ankle boot")
    assert [len(of_one) for of_one in names] == [10, 10, 10]


def test_the_names_of_the_classes_are_the_publishers() -> None:
    FashionMNIST = pytest.importorskip("torchvision.datasets").FashionMNIST

    assert list(datasets.fashion.CLASS_NAMES) == FashionMNIST.classes


def test_importing_loads_no_optional_dependency() -> None:
    code = (
        "import sys, fastgan.data\n"
        "fastgan.data.load('digits', 'test', 28, 1)\n"
        "print({'sklearn', 'torchvision', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@needs_real
def test_the_real_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", REAL)
    train, test = load_set("fashion-mnist", "train", 28, 1), load_set("fashion-mnist", "test", 28, 1)
    assert train.labels.bincount().tolist() == [6000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10
