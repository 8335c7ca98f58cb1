"""CIFAR-10 in both forms that it is distributed in, as folders or as the archives that hold them.

Layout (Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html): five batches to train on and one to test on. An image
is 3,072 bytes: the red plane, the green and the blue one, each 32 rows of 32. The binary version puts the label, one
byte, before each image; a batch of the Python version is a pickle with one array and one list.
"""

import gzip
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .cifar_pickle import ROW, read_batch
from .errors import DataError

NAME = "cifar-10"
SIDE = 32
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# A batch has 31 MB and the archive, unpacked, 186 MB. The caps keep a hostile one from asking for all the memory.
LARGEST_BATCH = 64 << 20
LARGEST_ARCHIVE = 512 << 20

Split = Literal["train", "test"]


@dataclass(frozen=True)
class Version:
    """One of the two forms: its folder, its archive, the ending of its files and how one is read."""

    folder: str
    archive: str
    suffix: str
    read: Callable[[bytes], tuple[Tensor, Tensor]]

    def files(self, split: Split) -> list[str]:
        """Names of the batches of ``split``, in order."""
        stems = [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]
        return [stem + self.suffix for stem in stems]


def _read_binary(data: bytes) -> tuple[Tensor, Tensor]:
    if not data or len(data) % (1 + ROW):
        raise ValueError(f"{len(data)} bytes are not a whole number of records of {1 + ROW}")
    records = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, 1 + ROW)
    return records[:, 1:], records[:, 0]


VERSIONS = (
    Version("cifar-10-batches-py", "cifar-10-python.tar.gz", "", read_batch),
    Version("cifar-10-batches-bin", "cifar-10-binary.tar.gz", ".bin", _read_binary),
)


def find(place: Path, split: Split) -> Path | None:
    """The folder or archive with ``split``: ``place``, or a folder or archive of the usual name in it; None if none."""
    for version in VERSIONS:
        for folder in (place, place / version.folder):
            if (folder / version.files(split)[0]).is_file():
                return folder
        if (place / version.archive).is_file():
            return place / version.archive
    return None


def read(source: Path, split: Split) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N], from what ``find`` returned.

    Raises DataError, naming the file, unless all is right. Archives are read in place, and no pickle is trusted.
    """
    archived = source.is_file()
    version = next(
        version
        for version in VERSIONS
        if (source.name == version.archive if archived else (source / version.files(split)[0]).is_file())
    )
    contents = _unpack(source, version, split) if archived else [_file(source / name) for name in version.files(split)]
    images, labels = zip(*(_batch(version, where, data) for where, data in contents), strict=True)
    return torch.cat(images).view(-1, 3, SIDE, SIDE), torch.cat(labels).long()


def fit(images: Tensor, size: int, channels: int) -> Tensor:
    """uint8 [N, 3, 32, 32] -> [N, channels, size, size]; ``channels``: 1 (grey) or 3."""
    if channels == 1:
        from torchvision.transforms.v2.functional import rgb_to_grayscale

        images = rgb_to_grayscale(images)
    if size == SIDE:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def _batch(version: Version, where: str, data: bytes) -> tuple[Tensor, Tensor]:
    try:
        images, labels = version.read(data)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    if len(images) != len(labels):
        raise DataError(f"{where}: {len(labels)} labels for {len(images)} images")
    if labels.max() >= len(CLASS_NAMES):
        raise DataError(f"{where}: label {int(labels.max())} is not one of 0 to {len(CLASS_NAMES) - 1}")
    return images, labels


def _file(path: Path) -> tuple[str, bytes]:
    try:
        with path.open("rb") as file:
            return str(path), _capped(file, str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _capped(file: IO[bytes], where: str) -> bytes:
    data = file.read(LARGEST_BATCH + 1)
    if len(data) > LARGEST_BATCH:
        raise DataError(f"{where}: more than {LARGEST_BATCH} bytes, which no batch has")
    return data


class _Unpacked(io.RawIOBase):
    """What is in a gzip file, and an error where it becomes too much."""

    def __init__(self, packed: gzip.GzipFile) -> None:
        self.packed = packed
        self.left = LARGEST_ARCHIVE

    def read(self, size: int = -1) -> bytes:
        data = self.packed.read(min(size, 1 << 20) if size >= 0 else 1 << 20)
        self.left -= len(data)
        if self.left < 0:
            raise OSError(f"it unpacks to more than {LARGEST_ARCHIVE} bytes")
        return data


def _unpack(archive: Path, version: Version, split: Split) -> list[tuple[str, bytes]]:
    """The batches of ``split``. The archive is read to its end, so that gzip compares its checksum."""
    wanted = {f"{version.folder}/{name}": name for name in version.files(split)}
    found: dict[str, bytes] = {}
    try:
        with gzip.open(archive) as packed:
            unpacked = _Unpacked(packed)
            with tarfile.open(fileobj=unpacked, mode="r|") as tar:
                for member in tar:
                    if member.name in wanted and (file := tar.extractfile(member)) is not None:
                        found[wanted[member.name]] = _capped(file, f"{archive}: {member.name}")
            while unpacked.read(1 << 20):
                pass
    except DataError:
        raise
    except Exception as error:  # besides OSError, EOFError and TarError, headers can end in a few others
        raise DataError(f"{archive}: cannot be read: {error}") from error
    missing = [path for path, name in wanted.items() if name not in found]
    if missing:
        raise DataError(f"{archive}: {missing[0]} is not in it")
    return [(f"{archive}: {version.folder}/{name}", found[name]) for name in version.files(split)]
