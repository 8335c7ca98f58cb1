"""The batches of CIFAR-10's Python version: pickles, read without running anything that they ask for.

A pickle is a program. This one may build dictionaries, lists, numbers and bytes, and call five names; every one of the
five leads to a class of this module that only keeps what it is given. NumPy itself is never called by a file.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ROW = 3 * 32 * 32


class _Array:
    """Stands for numpy.ndarray. ``state`` is what NumPy saves: version, shape, dtype, whether Fortran order, bytes."""

    state: object = None

    def __init__(self, *arguments: object) -> None:
        """The arguments describe an empty array, to be filled by the state."""

    def __setstate__(self, state: object) -> None:
        self.state = state


@dataclass
class _Dtype:
    """Stands for numpy.dtype. ``code`` is b"u1" for uint8."""

    code: object
    align: object = None
    copy: object = None

    def __setstate__(self, state: object) -> None:
        """Byte order and the like, which a type of one byte does not have."""


class _Encode(bytes):
    """Stands for _codecs.encode, by which Python 3 writes bytes in the old protocols."""

    def __new__(cls, text: object, encoding: object = "latin1") -> "_Encode":
        if not isinstance(text, str) or encoding != "latin1":
            raise pickle.UnpicklingError("bytes that are not latin1")
        return super().__new__(cls, text.encode("latin1"))

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("bytes have no state")


# The names that the files have from NumPy 1 (whose module numpy.core warns when it is imported) and from NumPy 2.
ALLOWED: dict[tuple[str, str], Callable] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Encode,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Callable:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no dataset needs")
        return ALLOWED[module, name]


def read_batch(data: bytes) -> tuple[Tensor, Tensor]:
    """The pickle ``data`` -> images uint8 [N, 3072] and labels uint8 [N].

    Raises ValueError, saying why, unless it is exactly a batch; nothing that it names was run.
    """
    try:
        _check_memo(data)
        batch = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can end in nearly every kind of error there is
        raise ValueError(f"not a pickle of a CIFAR-10 batch: {' '.join(str(error).split())}") from error
    if not isinstance(batch, dict) or b"data" not in batch or b"labels" not in batch:
        raise ValueError("not a CIFAR-10 batch: no dictionary with data and labels")
    return _images(batch[b"data"]), _labels(batch[b"labels"])


def _check_memo(data: bytes) -> None:
    """Refuse an index into the unpickler's memo larger than the file: room would be made for all below it."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in ("PUT", "LONG_BINPUT") and isinstance(argument, int) and argument > len(data):
            raise ValueError(f"memo index {argument}")


def _images(array: object) -> Tensor:
    match getattr(array, "state", None):
        case (1, (int(rows), 3072), _Dtype(code=b"u1" | "u1"), False | 0, bytes(pixels)) if (
            rows > 0 and len(pixels) == rows * ROW
        ):
            return torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(rows, ROW)
    raise ValueError(f"data is not a uint8 array of N rows of {ROW}, or does not have all of its bytes")


def _labels(labels: object) -> Tensor:
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < 256 for label in labels):
        raise ValueError("labels are not a list of numbers from 0 to 9")
    return torch.tensor(labels, dtype=torch.uint8)
