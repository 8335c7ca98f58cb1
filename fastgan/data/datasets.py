"""The two datasets, whole, as one uint8 tensor on the training device. Batches are normalised as they are taken."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from .idx import DataError, read_idx

CLASSES = 10
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DATASETS = ("digits", "fashion-mnist")
DIGITS_TRAIN = 1500  # of 1,797; the set is ordered by writer, so the rest were written by other hands

Split = Literal["train", "test"]


@dataclass(frozen=True)
class ImageSet:
    """A labelled dataset. ``images``: uint8 [N, C, H, W]; ``labels``: int64 [N] in [0, classes); on one device."""

    name: str
    origin: str
    images: Tensor
    labels: Tensor
    classes: int = CLASSES

    def __len__(self) -> int:
        return self.images.shape[0]

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order: images float32 [batch_size, C, H, W] in [-1, 1], and their labels.

        ``generator`` is a CPU one, so that a seed gives the same order on every device. The last, incomplete batch is
        left out: batch norm would weigh its few images like a whole batch.

        Raises DataError if not even one batch can be made.
        """
        if batch_size > len(self):
            raise DataError(f"batch size {batch_size} is larger than the {len(self)} training images of {self.name}")
        order = torch.randperm(len(self), generator=generator).to(self.images.device)
        for start in range(0, len(self) - batch_size + 1, batch_size):
            index = order[start : start + batch_size]
            yield normalise(self.images[index]), self.labels[index]


def normalise(images: Tensor) -> Tensor:
    """uint8 images, 0 to 255 -> float32 images, -1 to 1."""
    return images.float().div_(127.5).sub_(1.0)


def load(
    name: str,
    split: Split,
    image_size: int,
    channels: int,
    data_dir: Path | None = None,
    device: torch.device | str = "cpu",
) -> ImageSet:
    """Load ``name``, "digits" or "fashion-mnist", in the form a model wants: [N, channels, image_size, image_size].

    ``data_dir`` is where the files of Fashion-MNIST are looked for first; then $FASTGAN_DATA, then the folder of the
    Debian package. The digits come with scikit-learn.

    Raises DataError for an unknown name and for a dataset that is missing or damaged, ModuleNotFoundError if
    scikit-learn is needed and not installed.
    """
    if name == "digits":
        images, labels, origin = _digits(split)
        images = _resize(images, image_size)
    elif name == "fashion-mnist":
        images, labels, origin = _fashion_mnist(split, data_dir)
        images = _pad(images, image_size)
    else:
        raise DataError(f"unknown dataset {name!r}: choose one of {', '.join(DATASETS)}")
    images = images.expand(-1, channels, -1, -1).contiguous()  # [N, 1, H, W] -> [N, C, H, W]
    return ImageSet(name, origin, images.to(device), labels.to(device))


def _digits(split: Split) -> tuple[Tensor, Tensor, str]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    part = slice(None, DIGITS_TRAIN) if split == "train" else slice(DIGITS_TRAIN, None)
    # [N, 8, 8] with values 0 to 16 -> [N, 1, 8, 8] with values 0 to 255, not yet rounded
    images = torch.from_numpy(digits.images[part]).float().unsqueeze(1) * (255 / 16)
    return images, torch.from_numpy(digits.target[part]).long(), "scikit-learn"


def _resize(images: Tensor, size: int) -> Tensor:
    """float [N, 1, 8, 8], 0 to 255 -> uint8 [N, 1, size, size]."""
    resized = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    return resized.round_().to(torch.uint8)


def _pad(images: Tensor, size: int) -> Tensor:
    """uint8 [N, 1, 28, 28] -> [N, 1, size, size], framed in black: stretching would blur what is sharp."""
    margin = size - images.shape[-1]
    if margin < 0 or margin % 2:
        raise DataError(f"fashion-mnist images are 28x28 and cannot be framed to {size}x{size}")
    return F.pad(images, (margin // 2,) * 4)


def _fashion_mnist(split: Split, data_dir: Path | None) -> tuple[Tensor, Tensor, str]:
    prefix = "train" if split == "train" else "t10k"
    folder = _find_folder(f"{prefix}-images-idx3-ubyte", data_dir)
    images_path = _file(folder, f"{prefix}-images-idx3-ubyte")
    labels_path = _file(folder, f"{prefix}-labels-idx1-ubyte")
    images, labels = read_idx(images_path, dims=3), read_idx(labels_path, dims=1)
    if images.shape[1:] != (28, 28):
        raise DataError(f"{images_path}: images of {images.shape[1]}x{images.shape[2]} pixels, expected 28x28")
    if len(images) != len(labels):
        raise DataError(f"{labels_path}: {len(labels)} labels for the {len(images)} images of {images_path.name}")
    if labels.max() >= CLASSES:
        raise DataError(f"{labels_path}: label {int(labels.max())} is not one of 0 to {CLASSES - 1}")
    return images.unsqueeze(1), labels.long(), str(folder)


def _find_folder(stem: str, data_dir: Path | None) -> Path:
    places = [data_dir] if data_dir is not None else []
    if os.environ.get("FASTGAN_DATA"):
        places.append(Path(os.environ["FASTGAN_DATA"]))
    places.append(DEBIAN_FOLDER)
    for place in places:
        if any((place / name).is_file() for name in (stem, f"{stem}.gz")):
            return place
    looked = ", ".join(str(place) for place in places)
    raise DataError(
        f"no fashion-mnist: {stem}[.gz] is in none of {looked}; "
        f"install the Debian package {DEBIAN_PACKAGE}, or name the folder with --data-dir or FASTGAN_DATA"
    )


def _file(folder: Path, stem: str) -> Path:
    for path in (folder / stem, folder / f"{stem}.gz"):
        if path.is_file():
            return path
    raise DataError(f"{folder / stem}: missing, as is {stem}.gz beside it")
