"""The idx file format of MNIST and Fashion-MNIST, read strictly.

Layout (LeCun, "The MNIST database", http://yann.lecun.com/exdb/mnist): two zero bytes, one byte of element type, one
byte with the number of dimensions, each dimension as a big-endian uint32, then the elements, last dimension fastest.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from .errors import DataError

UNSIGNED_BYTE = 0x08
# A real set holds 47 MB. The cap keeps a hostile header, or a gzip bomb, from asking for all the memory there is.
LARGEST = 1 << 30


def read_idx(path: Path, dims: int) -> Tensor:
    """Read the idx file at ``path``, gzip-compressed if its name ends in .gz.

    Returns a uint8 tensor with ``dims`` dimensions.

    Raises DataError, naming the file, unless the header, the element type (unsigned byte), the number of dimensions and
    the exact length are all right.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(4 + 4 * dims)
            shape = _shape(header, dims, path)
            count = math.prod(shape)
            payload = file.read(count + 1)  # one more than wanted: a longer file is as wrong as a shorter one
    except (OSError, EOFError, zlib.error) as error:  # gzip reports a cut file as EOFError and a bad one as OSError
        raise DataError(f"{path}: cannot be read: {error}") from error
    if len(payload) != count:
        problem = "more" if len(payload) > count else f"only {len(payload)}"
        raise DataError(f"{path}: the header {list(shape)} asks for {count} bytes of data, the file holds {problem}")
    return torch.frombuffer(bytearray(payload), dtype=torch.uint8).reshape(shape)


def _shape(header: bytes, dims: int, path: Path) -> tuple[int, ...]:
    if len(header) != 4 + 4 * dims:
        raise DataError(f"{path}: truncated: {len(header)} bytes is shorter than an idx header")
    zero, kind, found_dims = struct.unpack(">HBB", header[:4])
    if zero != 0:
        raise DataError(f"{path}: not an idx file: it begins with {header[:4].hex()}, not with two zero bytes")
    if kind != UNSIGNED_BYTE:
        raise DataError(f"{path}: idx element type 0x{kind:02x}, expected 0x08 (unsigned byte)")
    if found_dims != dims:
        raise DataError(f"{path}: idx file with {found_dims} dimensions, expected {dims}")
    shape = struct.unpack(f">{dims}I", header[4:])
    if 0 in shape or math.prod(shape) > LARGEST:
        raise DataError(f"{path}: idx dimensions {list(shape)} are not those of a dataset")
    return shape
