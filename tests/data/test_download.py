"""Downloads, from a server of the test's own: whole files with the right checksum, or nothing."""

import gzip
import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from fastgan.data import DataError, datasets, download, load

from .writers import write_cifar, write_fashion


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and cuts off the files whose names say so."""

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        if not self.path.endswith("cut"):
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"whole")


@pytest.fixture
def served(tmp_path: Path) -> Path:
    (tmp_path / "served").mkdir()
    return tmp_path / "served"


@pytest.fixture
def url(served: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(datasets, "download", download.download)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def test_a_download_is_whole_or_not_there(
    served: Path, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (served / "right").write_bytes(b"whole")
    (served / "wrong").write_bytes(b"other")
    path = tmp_path / "new" / "folder" / "file"
    failures = {"wrong": "expected", "missing": "404", "cut": "expected"}
    for name, reason in failures.items():
        with pytest.raises(DataError, match=f"{url}{name}: .*{reason}"):
            download.download([url + name], md5(b"right"), path)
        assert list(path.parent.iterdir()) == []
    capsys.readouterr()
    download.download([url + "wrong", url + "missing", url + "right"], md5(b"whole"), path)  # mirrors, in order
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]
    assert capsys.readouterr().err == f"downloading {url}wrong to {path}\n"


def test_a_download_without_an_end_is_given_up(
    served: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (served / "large").write_bytes(bytes(4000))
    monkeypatch.setattr(download, "LARGEST", 1000)
    monkeypatch.setattr(download, "CHUNK", 300)
    with pytest.raises(DataError, match="1200 bytes with the MD5"):
        download.download([url + "large"], md5(bytes(4000)), tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_a_silent_server_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert download.TIMEOUT <= 10
    monkeypatch.setattr(download, "TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/file"
        with pytest.raises(DataError, match="timed out"):
            download.download([url], "", tmp_path / "file")


def serve_fashion(served: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FashionMNIST = pytest.importorskip("torchvision.datasets").FashionMNIST

    for prefix in ("train", "t10k"):
        write_fashion(served, prefix=prefix)
    resources = []
    for file in sorted(served.iterdir()):
        packed = gzip.compress(file.read_bytes())
        (served / f"{file.name}.gz").write_bytes(packed)
        resources.append((f"{file.name}.gz", md5(packed)))
    monkeypatch.setattr(FashionMNIST, "mirrors", [f"{url}away/", url])
    monkeypatch.setattr(FashionMNIST, "resources", resources)


def test_fashion_is_downloaded_once(
    served: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve_fashion(served, url, monkeypatch)
    kept = tmp_path / "cache" / "fastgan" / "fashion-mnist"
    data = load("fashion-mnist", "train", 28, 1)
    assert (data.origin, len(data)) == (str(kept), 12)
    assert len(capsys.readouterr().err.splitlines()) == 2
    monkeypatch.setattr(datasets, "download", None)
    assert load("fashion-mnist", "train", 28, 1).digest == data.digest
    assert sorted(path.name for path in kept.iterdir()) == [
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
    ]
    monkeypatch.setattr(datasets, "download", download.download)
    assert len(load("fashion-mnist", "test", 28, 1)) == 12


def test_an_interrupted_download_is_taken_up(
    served: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_fashion(served, url, monkeypatch)
    images = served / "train-images-idx3-ubyte.gz"
    images.rename(served / "away.gz")
    with pytest.raises(DataError, match="the download failed"):
        load("fashion-mnist", "train", 28, 1)
    (served / "away.gz").rename(images)
    (served / "train-labels-idx1-ubyte.gz").unlink()  # not asked for again
    assert len(load("fashion-mnist", "train", 28, 1)) == 12


def test_cifar_is_downloaded_and_read_in_place(
    served: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CIFAR10 = pytest.importorskip("torchvision.datasets").CIFAR10

    archive = write_cifar(served, "python2", archive=True)
    monkeypatch.setattr(CIFAR10, "url", url + archive.name)
    kept = tmp_path / "cache" / "fastgan" / "cifar-10"
    with pytest.raises(DataError, match=r"no cifar-10 in .*MD5.*; put the files .*--data-dir or FASTGAN_DATA"):
        load("cifar-10", "train", 32, 3)
    assert list(kept.iterdir()) == []
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive.read_bytes()))
    data = load("cifar-10", "train", 32, 3)
    assert (data.origin, len(data)) == (str(kept / archive.name), 20)
    assert list(kept.iterdir()) == [kept / archive.name]


def test_no_network_lists_the_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(datasets, "download", download.download)
    monkeypatch.setattr(download.urllib.request, "urlopen", unreachable)
    with pytest.raises(DataError) as caught:
        load("fashion-mnist", "train", 28, 1)
    message = str(caught.value)
    assert "\n" not in message
    for part in ("--data-dir", "FASTGAN_DATA", "dataset-fashion-mnist", "Name or service not known", "http"):
        assert part in message
    assert "downloading http" in capsys.readouterr().err


def test_a_cache_that_cannot_be_written_is_named(url: str, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(DataError, match=str(tmp_path / "cache")):
        load("cifar-10", "train", 32, 3)
