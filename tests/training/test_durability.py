"""What a run survives, with real processes: kill -9, signals, a full disk, damaged files, two runs in one folder."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fastgan.cli import main
from fastgan.training import load_checkpoint
from tests.training.runs import same_training

pytestmark = pytest.mark.timeout(900)  # each waits for several processes

ROOT = Path(__file__).parents[2]
TRAIN = ["train", "gan", "--data", "digits", "--batch-size", "32", "--device", "cpu"]


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The command line in a process of its own, working in ``folder``."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "fastgan.cli", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # whoever runs the tests may have had SIGINT ignored, as for a job in the background
    pipes["preexec_fn"] = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)
    return subprocess.Popen(command, cwd=folder, env=environment, **pipes)  # type: ignore[call-overload]


def finished(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout, stderr of a process of its own."""
    process = start(folder, *arguments)
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def fastgan(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """The same from a call in this process, which has imported torch, on one thread too: for what comes after the
    process that the test is about, or is compared with it bit by bit."""
    before, threads = Path.cwd(), torch.get_num_threads()
    output, errors = io.StringIO(), io.StringIO()
    os.chdir(folder)
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            code = main(list(arguments))
    finally:
        torch.set_num_threads(threads)
        os.chdir(before)
    return code, output.getvalue(), errors.getvalue()


def one_line(errors: str) -> str:
    assert errors.count("\n") == 1 and errors.endswith("\n"), errors
    return errors


def wait_for(process: subprocess.Popen[str], happened) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def rows(run: Path) -> int:
    return len((run / "metrics.csv").read_text().splitlines()) - 1 if (run / "metrics.csv").exists() else 0


@pytest.fixture
def stuck(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes to be killed when the test ends, however it does."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_and_the_run_goes_on(
    tmp_path: Path, stuck: list[subprocess.Popen[str]], number: signal.Signals, code: int
) -> None:
    process = start(
        tmp_path, *TRAIN, "--out", "run", "--steps", "1000000", "--log-every", "1", "--save-every", "1000000"
    )
    stuck.append(process)
    wait_for(process, lambda: rows(tmp_path / "run") >= 3)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert errors == ""
    assert f"stopped by {number.name}; to go on: fastgan train --resume run" in output
    step = load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"]
    assert rows(tmp_path / "run") == step
    assert fastgan(tmp_path, "train", "--resume", "run", "--steps", str(step + 3))[0] == 0
    assert fastgan(tmp_path, *TRAIN, "--out", "straight", "--steps", str(step + 3))[0] == 0
    assert same_training(tmp_path / "straight", tmp_path / "run")


def test_kill_9_at_any_moment(tmp_path: Path, stuck: list[subprocess.Popen[str]]) -> None:
    """Killed again and again, mostly while it writes, as every step is saved; in the end the bits are the same."""
    saving = ["--save-every", "1", "--log-every", "1"]
    process = start(tmp_path, *TRAIN, "--out", "run", "--steps", "30", *saving)
    for kills in range(1, 4):
        stuck.append(process)
        wait_for(process, lambda kills=kills: rows(tmp_path / "run") >= 5 * kills)
        time.sleep(0.013 * kills)
        process.kill()
        process.communicate()
        process = start(tmp_path, "train", "--resume", "run")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert fastgan(tmp_path, *TRAIN, "--out", "straight", "--steps", "30", *saving)[0] == 0
    assert same_training(tmp_path / "straight", tmp_path / "run")
    steps = [line.split(",")[0] for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1:]]
    assert steps == [str(step) for step in range(1, 31)]
    assert not list((tmp_path / "run").glob(".*.tmp"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system with room for one checkpoint and a half."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("cannot mount a small disk here: " + mounted.stderr.decode().strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    """24 MB a checkpoint: the first fits, the second does not beside it."""
    code, _, errors = finished(small_disk, *TRAIN, "--out", "run", "--steps", "9", "--save-every", "3")
    assert code == 2
    assert "No space left on device: make room, then: fastgan train --resume run" in one_line(errors)
    assert load_checkpoint(small_disk / "run" / "checkpoint.pt")["step"] == 3
    assert not list((small_disk / "run").glob(".*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    assert fastgan(small_disk, "train", "--resume", "run")[0] == 0
    assert fastgan(small_disk, *TRAIN, "--out", "straight", "--steps", "9")[0] == 0
    assert same_training(small_disk / "straight", small_disk / "run")


def test_damaged_checkpoints(tmp_path: Path) -> None:
    assert fastgan(tmp_path, *TRAIN, "--out", "run", "--steps", "4", "--save-every", "2")[0] == 0
    path = tmp_path / "run" / "checkpoint.pt"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 3] ^= 1
    for content, problem in ((whole[: len(whole) // 2], "truncated"), (bytes(flipped), "damaged"), (b"", "truncated")):
        path.write_bytes(content)
        for arguments in (["train", "--resume", "run", "--steps", "6"], ["sample", "run", "--out", "a.png"]):
            code, _, errors = fastgan(tmp_path, *arguments)
            assert code == 2
            assert problem in one_line(errors)
        assert path.read_bytes() == content  # not made worse
    code, _, errors = fastgan(tmp_path, "train", "--resume", "run", "--steps", "6")
    assert "that of step 2 is whole: mv run/checkpoint-previous.pt run/checkpoint.pt" in errors
    (tmp_path / "run" / "checkpoint-previous.pt").replace(path)
    assert fastgan(tmp_path, "train", "--resume", "run", "--steps", "6")[0] == 0


def test_a_folder_in_use(tmp_path: Path, stuck: list[subprocess.Popen[str]]) -> None:
    process = start(tmp_path, *TRAIN, "--out", "run", "--steps", "1000000", "--log-every", "1")
    stuck.append(process)
    wait_for(process, lambda: rows(tmp_path / "run") >= 1)
    for arguments in ([*TRAIN, "--out", "run", "--overwrite"], ["train", "--resume", "run"]):
        code, _, errors = fastgan(tmp_path, *arguments)
        assert code == 2
        assert "run is in use by another run" in one_line(errors)
    before = rows(tmp_path / "run")
    wait_for(process, lambda: rows(tmp_path / "run") > before)  # the first goes on undisturbed


def test_nobody_reads_the_log(tmp_path: Path, stuck: list[subprocess.Popen[str]]) -> None:
    """As in `fastgan train ... | head -1`: the training goes on."""
    process = start(tmp_path, *TRAIN, "--out", "run", "--steps", "20", "--log-every", "1")
    stuck.append(process)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=300) == 0
    assert process.stderr.read() == ""
    assert load_checkpoint(tmp_path / "run" / "checkpoint.pt")["step"] == 20
    process.stdout = None


def test_tensorboards_thread_is_quiet_on_a_full_disk(small_disk: Path) -> None:
    """Not enough even for the pictures in TensorBoard's file."""
    subprocess.run(["mount", "-o", "remount,size=25m", str(small_disk)], check=True)
    code, _, errors = finished(small_disk, *TRAIN, "--out", "run", "--steps", "200", "--save-every", "1")
    assert code == 2
    one_line(errors)
