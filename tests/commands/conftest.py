"""An empty folder to work in; no dataset is found, and none downloaded, unless a test says where."""

from pathlib import Path

import pytest

from fastgan.data import DataError, datasets
from tests.commands.calls import write_run


@pytest.fixture
def cgan(tmp_path: Path) -> Path:
    return write_run(tmp_path / "cgan", "cgan")


@pytest.fixture
def gan(tmp_path: Path) -> Path:
    return write_run(tmp_path / "gan", "gan")


def _offline(*_: object) -> None:
    raise DataError("no network in tests; install dataset-fashion-mnist")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTGAN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(datasets, "download", _offline)
