"""FLOPs and 32-byte sectors of each program of a launch, counted in Triton's interpreter.

Loads give zeros and products are not made: the kernels' control flow depends on sizes alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from bench.launches import LINKS, Case, run

SECTOR = 32  # bytes

#: (FLOPs, sectors) of each program of a launch, in order.
Programs = list[tuple[int, int]]


class Counted(NamedTuple):
    """What each launch of a case does, and, of a chain's link, how many passes over activations it makes beyond its
    convolution: how often it touches such tensors that the bare one does not, each sector counted once a launch.
    Sums by channel, of which a tile tells some, are no activations and are in the launches' sectors alone."""

    launches: list[Programs]
    passes: float | None = None


class Counter:
    """Counts what the programs of the launches do while it is installed; ``unique`` are the sectors that the programs
    of a launch touch together, of tensors whose elements have ``itemsize`` bytes."""

    def __init__(self, itemsize: int = 0) -> None:
        self._itemsize = itemsize
        self.launches: list[Programs] = []
        self.unique: list[int] = []
        self._touched: list[np.ndarray[Any, Any]] = []
        self._flops = 0
        self._sectors: list[np.ndarray[Any, Any]] = []
        self._images: list[np.ndarray[Any, Any]] = []

    def touch(self, pointers: Any, mask: Any) -> None:
        address, keep = np.broadcast_arrays(pointers.data, mask.data)
        size = pointers.get_element_ty().primitive_bitwidth // 8
        sector = np.where(keep.astype(bool), address.astype(np.int64) // SECTOR, -1)
        assert not (address.astype(np.int64)[keep.astype(bool)] % size).any(), "an element in two sectors"
        # neighbours share a sector: most are dropped before they are sorted
        if sector.ndim == 2 and sector.shape[0] > 1:
            down = int((sector[1:] == sector[:-1]).sum()) > int((sector[:, 1:] == sector[:, :-1]).sum())
            sector = sector.T if down else sector
        flat = np.ravel(sector)
        self._sectors.append(flat[np.concatenate(([True], flat[1:] != flat[:-1]))])
        if size == self._itemsize:
            self._images.append(self._sectors[-1])

    def multiply(self, a: Any, b: Any) -> None:
        self._flops += 2 * a.data.shape[0] * a.data.shape[1] * b.data.shape[1]

    def start(self, index: tuple[int, ...]) -> None:
        """A program begins; the first one of a launch has index 0."""
        self.end(last=not any(index))
        if not any(index):
            self.launches.append([])

    def end(self, last: bool = True) -> None:
        """A program ends, and with the last one a launch."""
        if self._sectors:
            touched = np.unique(np.concatenate(self._sectors))
            self.launches[-1].append((self._flops, int((touched >= 0).sum())))
        if self._images:
            self._touched.append(np.unique(np.concatenate(self._images)))
        self._flops, self._sectors, self._images = 0, [], []
        if last and self._touched:
            touched = np.unique(np.concatenate(self._touched))
            self.unique.append(int((touched >= 0).sum()))
            self._touched = []


@contextmanager
def counting(itemsize: int = 0) -> Iterator[Counter]:
    """Makes the interpreter count instead of compute."""
    from triton.runtime import interpreter

    counter, builder = Counter(itemsize), type(interpreter.interpreter_builder)
    handle = interpreter.TensorHandle
    names = ("create_masked_load", "create_masked_store", "create_dot", "set_grid_idx")
    before = {name: getattr(builder, name) for name in names}

    def load(self: Any, pointers: Any, mask: Any, *_: Any) -> Any:
        counter.touch(pointers, mask)
        kind = pointers.get_element_ty()
        return handle(np.zeros(pointers.data.shape, interpreter._get_np_dtype(kind)), kind)

    def store(self: Any, pointers: Any, value: Any, mask: Any, *_: Any) -> None:
        counter.touch(pointers, mask)

    def dot(self: Any, a: Any, b: Any, d: Any, *_: Any) -> Any:
        counter.multiply(a, b)
        return d

    def start(self: Any, *index: int) -> Any:
        counter.start(index)
        return before["set_grid_idx"](self, *index)

    for name, function in zip(names, (load, store, dot, start), strict=True):
        setattr(builder, name, function)
    try:
        yield counter
        counter.end()
    finally:
        for name, function in before.items():
            setattr(builder, name, function)


def counts(case: Case) -> Counted:
    """Of the case, in a process that interprets."""
    with counting(case.itemsize) as counter:
        run(case, "cpu")
    if case.op not in LINKS:
        return Counted(counter.launches)
    with counting(case.itemsize) as bare:
        for each in case.bare:
            run(each, "cpu")
    extra = sum(counter.unique) - sum(bare.unique)
    return Counted(counter.launches, extra * SECTOR / case.passes_over)
