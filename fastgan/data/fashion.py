"""Fashion-MNIST: four files in the idx format, as they are or compressed by gzip."""

from pathlib import Path
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from .errors import DataError
from .idx import read_idx

NAME = "fashion-mnist"
FOLDERS = (".", NAME, "FashionMNIST/raw")  # the last is torchvision's
SIDE = 28
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

Split = Literal["train", "test"]


def stems(split: Split) -> tuple[str, str]:
    """Names of the file of the images and of the file of the labels, without .gz."""
    prefix = "train" if split == "train" else "t10k"
    return f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"


def find(place: Path, split: Split) -> Path | None:
    """The folder with the images of ``split``: ``place`` itself or one of FOLDERS in it; None if there is none."""
    for folder in FOLDERS:
        if _present(place / folder, stems(split)[0]) is not None:
            return place / folder
    return None


def read(folder: Path, split: Split) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, 1, 28, 28] and labels int64 [N]. Raises DataError, naming the file, unless all is right."""
    images_path, labels_path = (_file(folder, stem) for stem in stems(split))
    images, labels = read_idx(images_path, dims=3), read_idx(labels_path, dims=1)
    if images.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{images_path}: images of {images.shape[1]}x{images.shape[2]} pixels, expected 28x28")
    if len(images) != len(labels):
        raise DataError(f"{labels_path}: {len(labels)} labels for the {len(images)} images of {images_path.name}")
    if labels.max() >= len(CLASS_NAMES):
        raise DataError(f"{labels_path}: label {int(labels.max())} is not one of 0 to {len(CLASS_NAMES) - 1}")
    return images.unsqueeze(1), labels.long()


def fit(images: Tensor, size: int) -> Tensor:
    """uint8 [N, 1, 28, 28] -> [N, 1, size, size]. Larger ones are framed in black: stretching would blur them."""
    margin = size - SIDE
    if margin < 0:
        return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
    before = margin // 2
    return F.pad(images, (before, margin - before) * 2)


def _present(folder: Path, stem: str) -> Path | None:
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def _file(folder: Path, stem: str) -> Path:
    path = _present(folder, stem)
    if path is None:
        raise DataError(f"{folder / stem}: missing, as is {stem}.gz beside it")
    return path
