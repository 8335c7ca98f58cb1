"""Folders of images: ``folder:PATH``. Subfolders are classes, as in torchvision's ImageFolder."""

import os
from pathlib import Path
from typing import Literal

import torch

from .errors import DataError
from .image_files import EXTENSIONS, ImageFiles
from .images import Images

PREFIX = "folder:"
LARGEST_IN_MEMORY = 512 << 20  # bytes of the images at the size of the model


def load_folder(
    name: str, split: Literal["train", "test"], image_size: int, channels: int, device: torch.device
) -> Images:
    """Read ``name``, "folder:PATH". If there is a folder PATH/train, the splits are PATH/train and PATH/test.

    Otherwise PATH is the train split. Subfolders are classes, in the order of their names, and images may lie at any
    depth in them; images that lie in the folder itself are unlabelled. Names that begin with a dot are left out.
    The test split has the classes of the train split.

    Returns an ImageSet if all images take at most LARGEST_IN_MEMORY, else ImageFiles.
    Raises DataError, naming the file or folder, if anything is missing, mixed or damaged.
    """
    path = Path(name.removeprefix(PREFIX)).expanduser()
    if not path.is_dir():
        raise DataError(f"{name}: no such folder")
    root = _split_folder(path, split)
    class_names = _subfolders(_split_folder(path, "train"))
    if split == "test" and (strange := sorted(set(_subfolders(root)) - set(class_names))):
        raise DataError(f"{root / strange[0]}: not one of the classes of {path / 'train'}")
    files, labels = _unlabelled(root) if not class_names else _labelled(root, class_names, split)
    if not files:
        raise DataError(f"{root}: no images in it; they are files ending in {', '.join(EXTENSIONS)}")
    streamed = ImageFiles(
        name=name,
        origin=str(root),
        root=root,
        files=tuple(files),
        labels=torch.tensor(labels),
        classes=len(class_names) or None,
        class_names=tuple(class_names),
        channels=channels,
        image_size=image_size,
        device=device,
    )
    small = len(files) * channels * image_size**2 <= LARGEST_IN_MEMORY
    return streamed.in_memory() if small else streamed


def _split_folder(path: Path, split: str) -> Path:
    if not (path / "train").is_dir():
        if split == "train":
            return path
        raise DataError(f"{path}: no test split: move the training images to {path / 'train'} and add {path / 'test'}")
    if not (path / split).is_dir():
        raise DataError(f"{path}: no test split: add the folder {path / split}, made like {path / 'train'}")
    return path / split


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the subfolders and of the images in ``folder``, sorted."""
    folders, images = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif entry.name.lower().endswith(EXTENSIONS):
                    if not entry.is_file():  # to open a pipe would be to wait for its writer
                        raise DataError(f"{entry.path}: neither a file nor a link to one")
                    images.append(entry.name)
    except OSError as error:
        raise DataError(f"{error.filename or folder}: cannot be read: {error.strerror}") from error
    return sorted(folders), sorted(images)


def _subfolders(folder: Path) -> list[str]:
    """The classes. Raises DataError if images lie beside them: they would be in none."""
    folders, images = _entries(folder)
    if folders and images:
        raise DataError(
            f"{folder}: image {images[0]!r} lies beside the subfolder {folders[0]!r}: "
            "put every image into a subfolder, its class, or have no subfolders"
        )
    return folders


def _unlabelled(root: Path) -> tuple[list[str], list[int]]:
    _, images = _entries(root)
    return images, [0] * len(images)


def _labelled(root: Path, class_names: list[str], split: str) -> tuple[list[str], list[int]]:
    files: list[str] = []
    labels: list[int] = []
    top = _identity(root)
    for label, class_name in enumerate(class_names):
        found = _below(root, class_name, {top}) if (root / class_name).is_dir() else []
        if not found and split == "train":
            raise DataError(f"{root / class_name}: no images in it, so the class {class_name!r} is empty")
        files += found
        labels += [label] * len(found)
    if not files and _entries(root)[1]:
        raise DataError(f"{root}: its images are unlabelled, those of the train split are not")
    return files, labels


def _below(root: Path, relative: str, seen: set[tuple[int, int]]) -> list[str]:
    """Paths, relative to ``root``, of all images below ``root / relative``; each folder once, so that loops end."""
    identity = _identity(root / relative)
    if identity in seen:
        return []
    seen.add(identity)
    folders, images = _entries(root / relative)
    found = [f"{relative}/{image}" for image in images]
    for folder in folders:
        found += _below(root, f"{relative}/{folder}", seen)
    return found


def _identity(folder: Path) -> tuple[int, int]:
    """What stays the same whatever link leads to the folder."""
    stat = folder.stat()
    return stat.st_dev, stat.st_ino
