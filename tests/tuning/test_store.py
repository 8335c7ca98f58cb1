"""The tables' files: what is written is read again, by others too; whatever else is there does no harm."""

from __future__ import annotations

import contextlib
import fcntl
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import fastgan
from fastgan.tuning import machine, store
from tests.tuning.conftest import choice, up

#: Python 3.12 and later warn of every fork beside threads, and torch has threads.
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
WHO = {"device": "a device", "fastgan": "1"}
KEY = ("conv2d", True, torch.float32, 3, (1, 2), None, False, ((4,), ()), (2,))


def the_file() -> Path:
    identity = machine.identity(torch.device("cpu"))
    return Path(os.environ["XDG_CACHE_HOME"]) / "fastgan" / "tuning" / machine.file_name(identity)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "deep" / "er" / "table.json"
    assert store.read(path, WHO) == {}
    entries = {KEY: {"native": 1e-5, "reference": 0.25}, (*KEY[:-1], (3,)): {"triton": 3.0}}
    assert store.add(path, WHO, entries) == entries
    found = store.read(path, WHO)
    assert found == entries
    assert [list(times) for times in found.values()] == [list(times) for times in entries.values()]
    assert type(next(iter(found))[2]) is torch.dtype


def test_the_older_of_two_stays_unless_it_lacks_a_backend(tmp_path):
    path = tmp_path / "table.json"
    store.add(path, WHO, {KEY: {"native": 1.0, "reference": 2.0}})
    assert store.add(path, WHO, {KEY: {"native": 3.0, "reference": 2.0}}) == {KEY: {"native": 1.0, "reference": 2.0}}
    assert store.add(path, WHO, {KEY: {"native": 5.0}}) == {KEY: {"native": 1.0, "reference": 2.0}}
    other = {"triton": 1.0, "reference": 2.0}
    assert store.add(path, WHO, {KEY: other}) == store.read(path, WHO) == {KEY: other}


def write_many(path: Path, process: int, gate: multiprocessing.Barrier) -> None:
    gate.wait()
    for number in range(25):
        store.add(
            path, WHO, {("conv2d", process, number): {"native": 1.0}, ("shared", number): {"native": 1.0 + process}}
        )
    os._exit(0)


@forks
def test_four_processes_at_once_lose_nothing(tmp_path):
    path, context = tmp_path / "table.json", multiprocessing.get_context("fork")
    gate = context.Barrier(4)
    processes = [context.Process(target=write_many, args=(path, number, gate)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    found = store.read(path, WHO)
    assert found.keys() == {
        *(("conv2d", process, number) for process in range(4) for number in range(25)),
        *(("shared", number) for number in range(25)),
    }
    assert sorted(file.name for file in tmp_path.iterdir()) == ["table.json", "table.json.lock"]


TUNE = """
import sys, torch, fastgan
torch.set_num_threads(1)
number = int(sys.argv[1])
with fastgan.autotune():
    for channels in (8, 8 + number):
        image, weight = torch.randn(2, channels, 4, 4), torch.randn(channels, 4, 4, 4)
        fastgan.functional.conv_transpose2d(image, weight, stride=2, padding=1)
"""
LOAD = """
import torch, fastgan
from fastgan import dispatch
torch.set_num_threads(1)
def chosen(channels):
    image, weight = torch.randn(2, channels, 4, 4), torch.randn(channels, 4, 4, 4)
    arguments = (image, weight, None, (8, 8), (2, 2), (1, 1), (1, 1), 1)
    times = dispatch.measured("conv_transpose2d", *arguments)
    return times and min(times, key=times.get) == dispatch.select("conv_transpose2d", *arguments).name
print([chosen(8 + number) for number in range(5)])
fastgan.load_tuning()
print([chosen(8 + number) for number in range(5)])
"""


@pytest.mark.slow
def test_four_programs_tune_at_once_and_a_later_one_uses_it_when_it_asks_for_it():
    programs = [subprocess.Popen([sys.executable, "-c", TUNE, str(number)]) for number in range(1, 5)]
    assert [program.wait(300) for program in programs] == [0] * 4
    later = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, timeout=300, check=True)
    native = fastgan.build_info()["native_cpu"] == "loaded"  # else there is nothing to choose from
    assert later.stdout.splitlines() == [str([None] * 5), str([True if native else None] * 5)]


def broken(entry: object = None, **changes: object) -> bytes:
    good = {"key": ["conv2d", 1], "seconds": {"native": 1.0}}
    content = {"format": 1, "identity": machine.identity(torch.device("cpu")), "entries": [good]}
    return json.dumps({**content, **changes, **({} if entry is None else {"entries": [entry]})}).encode()


BAD = {
    "empty": b"",
    "cut short": broken()[:-9],
    "bits": bytes(range(256)),
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "a long number": b'{"format": ' + b"1" * 10_000 + b"}",
    "another format": broken(format=2),
    "another machine": broken(identity={"device": "abacus"}),
    "no entries": broken(entries=None),
    "an entry that is a number": broken(7),
    "no times": broken({"key": [1], "seconds": {}}),
    "an unknown backend": broken({"key": [1], "seconds": {"__import__('os')": 1.0}}),
    "no number": broken({"key": [1], "seconds": {"native": float("nan")}}),
    "no time": broken({"key": [1], "seconds": {"native": 0.0}}),
    "a negative time": broken({"key": [1], "seconds": {"native": -1.0}}),
    "a bool": broken({"key": [1], "seconds": {"native": True}}),
    "a key that cannot be one": broken({"key": [{}], "seconds": {"native": 1.0}}),
    "a key that is a name": broken({"key": "conv2d", "seconds": {"native": 1.0}}),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_table_is_named_and_moved_aside(clock, name):
    the_file().parent.mkdir(parents=True)
    the_file().write_bytes(BAD[name])
    fastgan.load_tuning()
    with pytest.warns(RuntimeWarning, match=f"{the_file()} is not used"):
        assert choice(up) == "native"
    assert the_file().read_bytes() == BAD[name]
    with pytest.warns(RuntimeWarning) as warned, fastgan.autotune():
        assert choice(up) == "reference"
    last = str(warned[-1].message)
    assert str(the_file()) in last and "moved to" in last
    (aside,) = the_file().parent.glob("*.rejected-*")
    assert aside.name in last and aside.read_bytes() == BAD[name]
    assert len(store.read(the_file(), machine.identity(torch.device("cpu")))) == 1


def test_good_files_are_not_refused():
    the_file().parent.mkdir(parents=True)
    the_file().write_bytes(broken())
    assert store.read(the_file(), machine.identity(torch.device("cpu"))) == {("conv2d", 1): {"native": 1.0}}


def test_what_was_moved_aside_stays_when_the_next_one_is(tmp_path):
    path = tmp_path / "table.json"
    for number in (1, 2):
        path.write_text(f"bad {number}")
        with pytest.warns(RuntimeWarning, match=f"rejected-{number}"):
            store.add(path, WHO, {KEY: {"native": 1.0}})
    assert [(tmp_path / f"table.json.rejected-{number}").read_text() for number in (1, 2)] == ["bad 1", "bad 2"]


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["folder", "pipe"])
def test_what_is_no_file_is_refused_at_once(tmp_path, make):
    make(tmp_path / "table.json")
    with pytest.raises(store.Rejected, match="not a file"):
        store.read(tmp_path / "table.json", WHO)
    with pytest.warns(RuntimeWarning, match="moved to"):
        store.add(tmp_path / "table.json", WHO, {KEY: {"native": 1.0}})
    assert store.read(tmp_path / "table.json", WHO) == {KEY: {"native": 1.0}}


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path):
    path = tmp_path / "table.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(store.Rejected, match="larger than"):
        store.read(path, WHO)


def test_a_folder_that_cannot_be_written_is_one_warning(clock, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(RuntimeWarning, match="cannot be written") as warned, fastgan.autotune(tmp_path / "file" / "in"):
        for batch in (1, 2, 4):
            up(batch)
        assert not clock.timed(up)
    assert len([each for each in warned if "cannot be written" in str(each.message)]) == 1
    assert choice(up) == "reference"


def test_a_lock_that_another_process_keeps_is_waited_for_but_not_for_ever(clock, monkeypatch):
    the_file().parent.mkdir(parents=True)
    monkeypatch.setattr(store, "PATIENCE", 0.05)
    handle = os.open(the_file().with_name(f"{the_file().name}.lock"), os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with contextlib.closing(os.fdopen(handle)):
        with pytest.warns(RuntimeWarning, match="cannot be written"), fastgan.autotune():
            up()
        assert choice(up) == "reference" and not the_file().exists()
    with fastgan.autotune():
        up(4)
    assert len(store.read(the_file(), machine.identity(torch.device("cpu")))) == 2


def test_a_user_without_a_home_has_no_table_on_disk(clock, monkeypatch):
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", nowhere)
    with pytest.warns(RuntimeWarning, match="no folder for what is measured"), fastgan.autotune():
        up()
    assert choice(up) == "reference"


def test_nothing_is_read_unasked_and_nothing_written_by_loading(clock, folder):
    with fastgan.autotune():
        up()
    before = {path: path.read_bytes() for path in folder.iterdir()}
    fastgan.forget_tuning()
    assert choice(up) == "native"
    fastgan.load_tuning()
    assert choice(up) == "reference"
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert fastgan.load_tuning(folder / "nowhere") is None and not (folder / "nowhere").exists()


def test_a_save_is_as_durable_as_a_checkpoint(monkeypatch, tmp_path):
    """By the one function that does it, within the lock."""
    seen = []

    def write(path: Path, data: bytes) -> None:
        handle = os.open(tmp_path / "table.json.lock", os.O_RDWR)
        with contextlib.closing(os.fdopen(handle)), pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        seen.append((path, json.loads(data)["format"]))

    monkeypatch.setattr(store, "atomic_write", write)
    store.add(tmp_path / "table.json", WHO, {KEY: {"native": 1.0}})
    assert seen == [(tmp_path / "table.json", store.FORMAT)]


def test_devices_and_versions_have_files_of_their_own():
    names = {machine.file_name({**WHO, **change}) for change in ({}, {"device": "b device"}, {"fastgan": "2"})}
    assert len(names) == 3
    assert machine.file_name({"device": "../../x Y"}).startswith("x-y-")


def test_the_clock_that_is_not_faked_goes_forward():
    from fastgan.tuning import timing

    assert timing.seconds(lambda: time.sleep(0.001), torch.device("cpu"), 2) >= 0.001
