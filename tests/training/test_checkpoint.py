"""A checkpoint is read whole or not at all, and a failed write leaves the old one."""

import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from fastgan.files import atomic_write
from fastgan.training import CheckpointError, load_checkpoint, save_checkpoint
from fastgan.training import checkpoint as checkpoint_module


def content(seed: int = 0, size: int = 300) -> dict[str, object]:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(size, generator=generator)
    return {"config": {"model": "gan", "steps": None, "lr": 2e-4}, "step": 3, "generator": {"weight": weights}}


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Writing past ``limit`` bytes of a file fails, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, content())
    loaded = load_checkpoint(path, "config", "step", "generator")
    assert loaded["config"] == content()["config"]
    assert torch.equal(loaded["generator"]["weight"], content()["generator"]["weight"])  # type: ignore[index]
    assert list(tmp_path.iterdir()) == [path]


def test_torch_reads_it_too(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint.pt", content())
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 3


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, content(size=20))
    whole = path.read_bytes()
    chosen = random.Random(0)
    positions = {chosen.randrange(8 * len(whole)) for _ in range(600)} | set(
        range(8 * (len(whole) - 90), 8 * len(whole))
    )
    for position in positions:
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError) as caught:
            load_checkpoint(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, content(size=20))
    whole = path.read_bytes()
    for length in [0, 1, 79, 80, 81, *range(100, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="truncated, or not a fastgan checkpoint"):
            load_checkpoint(path)


def test_refuses_what_is_not_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(CheckpointError, match="no such file"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path)
    save_checkpoint(path, {"step": 1})
    with pytest.raises(CheckpointError, match="has no config"):
        load_checkpoint(path, "step", "config")


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"config": Path("/")})
    with pytest.raises(CheckpointError, match="tensors and plain values"):
        load_checkpoint(path)


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, content(seed=1))
    with file_size_limit(4096), pytest.raises(OSError, match=r"checkpoint\.pt"):
        save_checkpoint(path, content(seed=2, size=100_000))
    assert load_checkpoint(path)["generator"]["weight"].equal(content(seed=1)["generator"]["weight"])  # type: ignore[index]
    assert list(tmp_path.iterdir()) == [path]  # no half-written file is left beside it


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_at_any_call_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "file"
    atomic_write(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="Input/output error"):
            atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_order_of_a_safe_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data is on the disk before the name is, and the name before the call returns."""
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b)))
    checkpoint_module.save_checkpoint(tmp_path / "checkpoint.pt", content())
    assert calls == ["fsync", "replace", "fsync"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    atomic_write(tmp_path / "ours", b"")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("links", [True, False])
def test_the_file_before_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    """Also where a file cannot have two names."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not links:
        monkeypatch.setattr(os, "link", refuse)
    path, previous = tmp_path / "file", tmp_path / "before"
    for number in range(3):
        atomic_write(path, str(number).encode(), previous)
        assert path.read_bytes() == str(number).encode()
    assert previous.read_bytes() == b"1"
    assert sorted(tmp_path.iterdir()) == [previous, path]


def test_a_failed_write_leaves_both_files(tmp_path: Path) -> None:
    path, previous = tmp_path / "file", tmp_path / "before"
    atomic_write(path, b"1", previous)
    atomic_write(path, b"2", previous)
    with file_size_limit(10), pytest.raises(OSError, match="file"):
        atomic_write(path, b"3" * 100, previous)
    assert (path.read_bytes(), previous.read_bytes()) == (b"2", b"1")
