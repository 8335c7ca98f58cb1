"""The idx reader believes nothing: every kind of damage is one line that names the file."""

import gzip
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgan.data import DataError, read_idx


def idx(shape: tuple[int, ...], payload: bytes, kind: int = 8, zero: int = 0) -> bytes:
    return struct.pack(">HBB", zero, kind, len(shape)) + struct.pack(f">{len(shape)}I", *shape) + payload


GOOD = idx((2, 3), bytes(range(6)))


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_reads(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(GOOD) if name.endswith(".gz") else GOOD)
    tensor = read_idx(path, dims=2)
    assert tensor.dtype == torch.uint8
    assert tensor.tolist() == [[0, 1, 2], [3, 4, 5]]


BAD = {
    "empty": b"",
    "header cut": GOOD[:7],
    "data cut": GOOD[:-1],
    "trailing byte": GOOD + b"\0",
    "bad magic": idx((2, 3), bytes(6), zero=1),
    "float type": idx((2, 3), bytes(6), kind=0x0D),
    "three dimensions": idx((1, 2, 3), bytes(6)),
    "huge": idx((0xFFFFFFFF, 0xFFFFFFFF), bytes(6)),
    "no images": idx((0, 3), b""),
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_refuses(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"images{suffix}"
    path.write_bytes(gzip.compress(BAD[name]) if suffix else BAD[name])
    with pytest.raises(DataError) as caught:
        read_idx(path, dims=2)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_refuses_damaged_gzip(tmp_path: Path) -> None:
    whole = gzip.compress(GOOD)
    flipped = bytearray(whole)
    flipped[-6] ^= 1  # in the checksum
    for data in (whole[:-5], whole[: len(whole) // 2], bytes(flipped), b"not gzip", whole + b"junk"):
        path = tmp_path / "images.gz"
        path.write_bytes(data)
        with pytest.raises(DataError, match=r"images\.gz: cannot be read"):
            read_idx(path, dims=2)


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(idx((2, 3), bytes(6)))
        for _ in range(64):
            file.write(bytes(1 << 20))
    with pytest.raises(DataError, match="holds more"):
        read_idx(path, dims=2)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_idx(tmp_path, dims=2)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz"
    path.write_bytes(data)
    try:
        tensor = read_idx(path, dims=1)
    except DataError:
        return
    assert len(data) == 8 + len(tensor)
