"""Images that stay in their files and are decoded as they are needed, by threads that read ahead.

Threads and not processes: Pillow decodes and resizes without Python's lock, an error arrives as it was raised, Ctrl-C
reaches the training only, and nothing is forked from a process in which CUDA or OpenMP already runs.
"""

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .errors import DataError
from .images import Batch, Images, ImageSet, normalise

if TYPE_CHECKING:
    from PIL.Image import Image

THREADS = min(8, os.cpu_count() or 1)
AHEAD = 2  # batches that are read while another is used
READ_BATCH = 256
# Those of torchvision's ImageFolder, and the decoders for them. Pillow has decoders for more, one of which starts
# Ghostscript; a file is given to none of them, whatever its name says.
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")


@dataclass(frozen=True, eq=False)
class ImageFiles(Images):
    """Images in files below ``root``. ``files``: their relative paths; ``labels``: int64 [N] on the CPU.

    Batches come to ``device``. Reading one raises DataError, naming the file, if an image is damaged or gone.
    """

    name: str
    origin: str
    root: Path
    files: tuple[str, ...]
    labels: Tensor
    classes: int | None
    class_names: tuple[str, ...]
    channels: int
    image_size: int
    device: torch.device

    def __len__(self) -> int:
        return len(self.files)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the form, and of each file's relative path, size and label.

        Raises DataError if a file is gone.
        """
        sha = hashlib.sha256(f"{self.channels} {self.image_size}".encode())
        for file, label in zip(self.files, self.labels.tolist(), strict=True):
            try:
                stat = (self.root / file).stat()
            except OSError as error:
                raise DataError(f"{self.root / file}: cannot be read: {error.strerror}") from error
            sha.update(os.fsencode(file) + f"\0{stat.st_size} {label}\0".encode())
        return sha.hexdigest()

    def take(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        """See ``Images.take``. Reading begins with the first ``next`` and ends when the iterator is closed."""
        cuda = self.device.type == "cuda"
        for images, labels in self._read(order, batch_size):
            if cuda:  # pinned, so that the copy does not make the CPU wait
                images, labels = images.pin_memory(), labels.pin_memory()
            images = images.to(self.device, non_blocking=cuda)
            yield normalise(images), labels.to(self.device, non_blocking=cuda)

    def in_memory(self) -> ImageSet:
        """The same images, all read now, as uint8 on the device. Raises DataError, naming the first damaged file."""
        images = torch.empty(len(self), self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        start = 0
        for batch, _ in self._read(torch.arange(len(self)), READ_BATCH):
            images[start : start + len(batch)] = batch
            start += len(batch)
        labels = self.labels.to(self.device)
        return ImageSet(self.name, self.origin, images.to(self.device), labels, self.classes, self.class_names)

    def _read(self, order: Tensor, batch_size: int) -> Iterator[Batch]:
        """uint8 [N, C, H, W] and int64 [N], on the CPU."""
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="fastgan-images")
        waiting: deque[tuple[list[Future[Tensor]], Tensor]] = deque()
        try:
            for start in range(0, len(order), batch_size):
                index = order[start : start + batch_size]
                paths = [self.root / self.files[i] for i in index.tolist()]
                futures = [pool.submit(read_image, path, self.channels, self.image_size) for path in paths]
                waiting.append((futures, self.labels[index]))
                if len(waiting) > AHEAD:
                    yield _ready(*waiting.popleft())
            while waiting:
                yield _ready(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)


def _ready(futures: list[Future[Tensor]], labels: Tensor) -> Batch:
    return torch.stack([future.result() for future in futures]), labels


def read_image(path: Path, channels: int, size: int) -> Tensor:
    """The image file at ``path`` -> uint8 [channels, size, size]: the short side resized to ``size``, centre-cropped.

    Antialiased bilinear. ``channels``: 1 gives grey, 3 gives RGB; transparency is dropped.

    Raises DataError, naming the file, if it is no image, not a whole one, or so large that it must be an attack.
    """
    from PIL import Image, ImageOps

    try:
        with path.open("rb") as file, Image.open(file, formats=FORMATS) as image:
            _check_pixels(image.width * image.height, Image.MAX_IMAGE_PIXELS)
            converted = _eight_bit(image, "L" if channels == 1 else "RGB")
            # `fit` crops and resizes in one go: a picture 1 pixel wide and 60,000 high is never made larger on the way
            fitted = ImageOps.fit(converted, (size, size), Image.Resampling.BILINEAR)
    except Exception as error:  # decoders answer damaged files with nearly every kind of error there is
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: not a readable image: {reason}") from error
    pixels = torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8)  # H, W, C
    return pixels.view(size, size, channels).permute(2, 0, 1).contiguous()


def _check_pixels(pixels: int, most: int | None) -> None:
    # Pillow only warns up to twice the limit. To make warnings errors is to change it for every thread.
    if most is not None and pixels > most:
        raise DataError(f"{pixels} pixels, more than the {most} that Pillow takes for safe")


def _eight_bit(image: "Image", mode: str) -> "Image":
    """``image`` as "L" or "RGB"."""
    if image.mode.startswith("I;16"):  # Pillow would clip 16 bits to 8: nearly everything would be white
        from PIL.Image import fromarray

        image = fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise DataError(f"pixels of type {image.mode} have no known range")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns about the direct way
    return image.convert(mode)
