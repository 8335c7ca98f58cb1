"""The datasets by their names, and the places in which they are looked for."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fastgan.files import cache_folder

from . import cifar, fashion
from .download import download
from .errors import DataError
from .folder import PREFIX, load_folder
from .images import Images, ImageSet

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DATASETS = ("digits", "fashion-mnist", "cifar-10")
DIGITS_TRAIN = 1500  # of 1,797; the set is ordered by writer, so the rest were written by other hands

Split = Literal["train", "test"]
Find = Callable[[Path, Split], Path | None]


def load(
    name: str,
    split: Split,
    image_size: int,
    channels: int,
    data_dir: Path | None = None,
    device: torch.device | str = "cpu",
) -> Images:
    """Load ``name`` in the form a model wants: [N, channels, image_size, image_size], ``channels`` 1 or 3.

    ``name``: "digits", which come with scikit-learn; "fashion-mnist"; "cifar-10"; or "folder:PATH", a folder of
    images. ``data_dir``: the folder that has the files of Fashion-MNIST or CIFAR-10. Without it they are looked for in
    $FASTGAN_DATA, the folder of the Debian package and the cache, and else downloaded into the cache.

    Returns an ImageSet, or ImageFiles for a folder too large for the memory.
    Raises DataError for an unknown name and for a dataset that is missing or damaged, ModuleNotFoundError if
    scikit-learn, torchvision or Pillow is needed and not installed.
    """
    if channels not in (1, 3):
        raise DataError(f"channels={channels}: images have 1 or 3")
    if name.startswith(PREFIX):
        return load_folder(name, split, image_size, channels, torch.device(device))
    if name == "digits":
        images, labels, origin = _digits(split)
        images = _resize(images, image_size)
        class_names = tuple("0123456789")
    elif name == "fashion-mnist":
        source = _find(fashion.find, name, split, data_dir) or _download_fashion(split)
        images, labels, origin = *fashion.read(source, split), str(source)
        images = fashion.fit(images, image_size)
        class_names = fashion.CLASS_NAMES
    elif name == "cifar-10":
        source = _find(cifar.find, name, split, data_dir) or _download_cifar()
        images, labels, origin = *cifar.read(source, split), str(source)
        images = cifar.fit(images, image_size, channels)
        class_names = cifar.CLASS_NAMES
    else:
        raise DataError(f"unknown dataset {name!r}: choose one of {', '.join(DATASETS)}, {PREFIX}PATH")
    images = images.expand(-1, channels, -1, -1).contiguous()  # [N, 1, H, W] -> [N, C, H, W]
    return ImageSet(name, origin, images.to(device), labels.to(device), len(class_names), class_names)


def _digits(split: Split) -> tuple[Tensor, Tensor, str]:
    images, labels = _digits_of_sklearn()
    part = slice(None, DIGITS_TRAIN) if split == "train" else slice(DIGITS_TRAIN, None)
    # [N, 8, 8] with values 0 to 16 -> [N, 1, 8, 8] with values 0 to 255, not yet rounded
    return images[part].float().unsqueeze(1) * (255 / 16), labels[part].long(), "scikit-learn"


def _digits_of_sklearn() -> tuple[Tensor, Tensor]:
    """float64 [N, 8, 8] with values 0 to 16, and the labels: what scikit-learn's ``load_digits`` gives, read from its
    file without importing scikit-learn, which takes two seconds."""
    import numpy as np

    spec = importlib.util.find_spec("sklearn")
    if spec is not None and spec.origin is not None:
        file = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if file.is_file():
            table = torch.from_numpy(np.loadtxt(file, delimiter=","))  # 64 pixels and the label
            return table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    from sklearn.datasets import load_digits

    digits = load_digits()
    return torch.from_numpy(digits.images), torch.from_numpy(digits.target)


def _resize(images: Tensor, size: int) -> Tensor:
    """float [N, 1, 8, 8], 0 to 255 -> uint8 [N, 1, size, size]."""
    resized = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    return resized.round_().to(torch.uint8)


def _places(name: str) -> list[Path]:
    places = [Path(os.environ["FASTGAN_DATA"])] if os.environ.get("FASTGAN_DATA") else []
    if name == fashion.NAME:
        places.append(DEBIAN_FOLDER)
    return [*places, cache_folder() / name]


def _find(find: Find, name: str, split: Split, data_dir: Path | None) -> Path | None:
    """Where the data is, or None if it must be downloaded. What the user names is the only place looked at."""
    if data_dir is None:
        return next((found for place in _places(name) if (found := find(place, split)) is not None), None)
    source = find(data_dir, split)
    if source is None:
        raise DataError(f"{data_dir}: no {name} ({split}) in it: {_wanted(name, split)}")
    return source


def _wanted(name: str, split: Split) -> str:
    if name == fashion.NAME:
        return f"expected {fashion.stems(split)[0]}[.gz], there or in a subfolder {' or '.join(fashion.FOLDERS[1:])}"
    return "expected " + " or ".join(f"{version.archive} or {version.folder}" for version in cifar.VERSIONS)


def _download_fashion(split: Split) -> Path:
    from torchvision.datasets import FashionMNIST

    folder = cache_folder() / fashion.NAME
    names = [f"{stem}.gz" for stem in fashion.stems(split)]
    # The labels first: the folder counts as found when it has the images.
    for file, md5 in sorted(FashionMNIST.resources, key=lambda resource: "labels" not in resource[0]):
        if file in names and not (folder / file).is_file():
            _download([mirror + file for mirror in FashionMNIST.mirrors], md5, folder / file, fashion.NAME)
    return folder


def _download_cifar() -> Path:
    from torchvision.datasets import CIFAR10

    path = cache_folder() / cifar.NAME / CIFAR10.filename
    _download([CIFAR10.url], CIFAR10.tgz_md5, path, cifar.NAME)
    return path


def _download(urls: list[str], md5: str, path: Path, name: str) -> None:
    try:
        download(urls, md5, path)
    except DataError as error:
        package = f"install the Debian package {DEBIAN_PACKAGE} or " if name == fashion.NAME else ""
        raise DataError(
            f"no {name} in {', '.join(str(place) for place in _places(name))}, and the download failed: {error}; "
            f"{package}put the files into a folder and name it with --data-dir or FASTGAN_DATA"
        ) from error
