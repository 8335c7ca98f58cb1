"""Both datasets: the forms that the models want, the places looked at, and what is refused."""

import struct
from pathlib import Path

import pytest
import torch

from fastgan.data import DataError, ImageSet, datasets, load, normalise

REAL = datasets.DEBIAN_FOLDER
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"{datasets.DEBIAN_PACKAGE} is not installed")


def write_fashion(
    folder: Path, count: int = 12, labels: list[int] | None = None, side: int = 28, prefix: str = "train"
) -> None:
    """A small set in the real files' format: image i is filled with the value i."""
    labels = [i % 10 for i in range(count)] if labels is None else labels
    pixels = b"".join(bytes([i]) * side * side for i in range(count))
    folder.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">HBBIII", 0, 8, 3, count, side, side)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + pixels)
    header = struct.pack(">HBBI", 0, 8, 1, len(labels))
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(header + bytes(labels))


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No dataset is found unless a test says where."""
    monkeypatch.delenv("FASTGAN_DATA", raising=False)
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path / "debian")


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3)])
def test_digits(size: int, channels: int) -> None:
    train, test = load("digits", "train", size, channels), load("digits", "test", size, channels)
    assert (len(train), len(test)) == (1500, 297)
    assert train.images.shape == (1500, channels, size, size)
    assert train.images.dtype == torch.uint8
    assert (int(train.images.min()), int(train.images.max())) == (0, 255)
    assert train.labels.dtype == torch.int64
    assert train.labels[:10].tolist() == list(range(10))
    assert all(torch.equal(train.images[:, 0], train.images[:, c]) for c in range(channels))


def test_fashion_is_framed_and_repeated(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    data = load("fashion-mnist", "train", 32, 3, tmp_path)
    assert data.images.shape == (12, 3, 32, 32)
    image = data.images[7]
    assert image[:, 2:30, 2:30].eq(7).all()
    assert image.sum() == 7 * 3 * 28 * 28  # the frame is black
    assert data.origin == str(tmp_path)
    plain = load("fashion-mnist", "train", 28, 1, tmp_path)
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


def test_missing_names_every_place_and_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTGAN_DATA", "/variable")
    with pytest.raises(DataError) as caught:
        load("fashion-mnist", "train", 28, 1, Path("/flag"))
    for part in ("/flag", "/variable", str(tmp_path / "debian"), "dataset-fashion-mnist"):
        assert part in str(caught.value)


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


def test_refuses_unknown_names_and_sizes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown dataset 'cifar'"):
        load("cifar", "train", 28, 1)
    write_fashion(tmp_path)
    for size in (16, 29):
        with pytest.raises(DataError, match="cannot be framed"):
            load("fashion-mnist", "train", size, 1, tmp_path)


@needs_real
def test_the_real_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", REAL)
    train, test = load("fashion-mnist", "train", 28, 1), load("fashion-mnist", "test", 28, 1)
    assert train.labels.bincount().tolist() == [6000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10


def small_set(count: int = 10) -> ImageSet:
    images = torch.arange(count, dtype=torch.uint8).reshape(count, 1, 1, 1)
    return ImageSet("small", "memory", images, torch.arange(count))


def test_batches_cover_an_epoch_once_and_follow_the_seed() -> None:
    data = small_set()
    first = list(data.batches(3, torch.Generator().manual_seed(5)))
    again = list(data.batches(3, torch.Generator().manual_seed(5)))
    assert len(first) == 3  # the tenth image is left out
    labels = torch.cat([labels for _, labels in first])
    assert len(labels.unique()) == 9
    for (images, labels), (images_again, labels_again) in zip(first, again, strict=True):
        assert torch.equal(images, images_again)
        assert torch.equal(labels, labels_again)
        assert torch.equal(images.flatten(), normalise(labels.to(torch.uint8)))
    generator = torch.Generator().manual_seed(5)
    orders = [torch.cat([labels for _, labels in data.batches(5, generator)]) for _ in range(2)]
    assert not torch.equal(*orders)  # the next epoch has another order


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(DataError, match="batch size 11 is larger than the 10 training images of small"):
        next(small_set().batches(11, torch.Generator()))


def test_normalise() -> None:
    values = normalise(torch.tensor([0, 255], dtype=torch.uint8))
    assert values.dtype == torch.float32
    assert values.tolist() == [-1.0, 1.0]
