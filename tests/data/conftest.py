"""No dataset is found, and none downloaded, unless a test says where."""

from pathlib import Path

import pytest

from fastgan.data import DataError, datasets


def _offline(*_: object) -> None:
    raise DataError("no network in tests")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FASTGAN_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr(datasets, "download", _offline)
