"""Small datasets in the formats of the real ones."""

import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

CIFAR_FILES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def write_fashion(
    folder: Path, count: int = 12, labels: list[int] | None = None, side: int = 28, prefix: str = "train"
) -> None:
    """Image i is filled with the value i."""
    labels = [i % 10 for i in range(count)] if labels is None else labels
    pixels = b"".join(bytes([i]) * side * side for i in range(count))
    folder.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">HBBIII", 0, 8, 3, count, side, side)
    (folder / f"{prefix}-images-idx3-ubyte").write_bytes(header + pixels)
    header = struct.pack(">HBBI", 0, 8, 1, len(labels))
    (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(header + bytes(labels))


def cifar_batch(number: int, count: int = 4) -> tuple[Tensor, list[int]]:
    """uint8 [count, 3072] of noise and its labels, the same at every call."""
    generator = torch.Generator().manual_seed(number)
    pixels = torch.randint(256, (count, 3072), dtype=torch.uint8, generator=generator)
    return pixels, [(number + i) % 10 for i in range(count)]


def python2_pickle(pixels: Tensor, labels: list[int]) -> bytes:
    """A batch with the opcodes of the real files, which Python 2 and NumPy 1 wrote: strings are bytes there."""

    def string(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    rows, columns = pixels.shape
    raw = pixels.numpy().tobytes()
    return b"".join(
        (
            b"\x80\x02}q\x01(",
            string(b"batch_label") + b"q\x02" + string(b"training batch 1 of 5") + b"q\x03",
            string(b"labels") + b"q\x04]q\x05(" + b"".join(b"K" + bytes([label]) for label in labels) + b"e",
            string(b"data") + b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85",
            string(b"b") + b"\x87Rq\t(K\x01M" + struct.pack("<H", rows) + b"M" + struct.pack("<H", columns) + b"\x86",
            b"cnumpy\ndtype\nq\n" + string(b"u1") + b"K\x00K\x01\x87Rq\x0b(K\x03",
            string(b"|")
            + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
            + struct.pack("<I", len(raw))
            + raw
            + b"tb",
            string(b"filenames") + b"q\x0c]q\x0d(" + b"".join(string(b"a.png") for _ in labels) + b"eu.",
        )
    )


def python3_pickle(pixels: Tensor, labels: list[int]) -> bytes:
    """The same as today's Python and NumPy write it, in the old protocol."""
    return pickle.dumps({b"data": np.asarray(pixels), b"labels": labels}, protocol=2)


def binary_batch(pixels: Tensor, labels: list[int]) -> bytes:
    return b"".join(bytes([label]) + row.numpy().tobytes() for label, row in zip(labels, pixels, strict=True))


def cifar_contents(form: str, count: int = 4) -> dict[str, bytes]:
    """Relative paths and contents of the six batches; ``form``: "python2", "python3" or "binary"."""
    write = {"python2": python2_pickle, "python3": python3_pickle, "binary": binary_batch}[form]
    folder, suffix = ("cifar-10-batches-bin", ".bin") if form == "binary" else ("cifar-10-batches-py", "")
    return {f"{folder}/{name}{suffix}": write(*cifar_batch(i, count)) for i, name in enumerate(CIFAR_FILES)}


def write_cifar(place: Path, form: str, archive: bool = False) -> Path:
    """Write the six batches into ``place``, as a folder or as an archive of the usual name, which is returned."""
    contents = cifar_contents(form)
    if archive:
        path = place / f"cifar-10-{'binary' if form == 'binary' else 'python'}.tar.gz"
        place.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tar_gz(contents))
        return path
    for relative, data in contents.items():
        (place / relative).parent.mkdir(parents=True, exist_ok=True)
        (place / relative).write_bytes(data)
    return (place / next(iter(contents))).parent


def tar_gz(contents: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()
