"""bench/gpu.sh with stand-ins for python3, nvidia-smi and compute-sanitizer: no step stops the others."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STEPS = ("versions", "build", "tests", "verify", "benchmark", "sanitizer")

# Which command line of python3 belongs to which step; FAILING lists the steps that fail.
PYTHON = """#!/usr/bin/env bash
echo "python3 $*"
case "$*" in
    *torch.cuda.is_available*) step=gpu ;;
    *"pip install"*|*"setup.py"*) step=build ;;
    *"-m pytest"*) step=tests ;;
    *"cli verify"*) step=verify ;;
    *"bench run"*) step=benchmark; echo '{}' > "$RESULTS/bench.json" ;;
    *) step=other ;;
esac
[[ " $FAILING " != *" $step "* ]] || exit 3
"""
NVIDIA_SMI = """#!/usr/bin/env bash
[[ " $FAILING " != *" smi "* ]] || exit 9
case "$*" in
    *query-gpu=name*) echo "NVIDIA Made-Up 1" ;;
    *) echo "GPU 0: NVIDIA Made-Up 1" ;;
esac
"""
SANITIZER = """#!/usr/bin/env bash
[[ " $FAILING " != *" sanitizer "* ]] || exit 99
echo "ERROR SUMMARY: 0 errors"
"""

pytestmark = pytest.mark.skipif(shutil.which("timeout") is None, reason="needs GNU timeout")


def run(folder: Path, failing: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    programs = folder / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    for name, text in (("python3", PYTHON), ("nvidia-smi", NVIDIA_SMI), ("compute-sanitizer", SANITIZER)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if key not in ("OUT", "RESULTS", "PYTHON")}
    environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "FAILING": failing} | variables
    command = ["bash", str(ROOT / "bench" / "gpu.sh")]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=60)


def test_all_steps_pass(tmp_path: Path) -> None:
    results = tmp_path / "results"
    done = run(tmp_path, RESULTS=str(results))
    assert done.returncode == 0, done.stderr
    lines = (results / "summary.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == list(STEPS)
    assert lines[-1] == "all steps passed"
    assert len(list(results.iterdir())) <= 8
    assert "python3 -m bench run --device cuda" in (results / "bench.txt").read_text()


@pytest.mark.parametrize("step", ["build", "tests", "verify", "benchmark", "sanitizer"])
def test_a_failing_step_stops_nothing_and_is_told(step: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    done = run(tmp_path, failing=step, OUT=str(results))
    assert done.returncode == 1
    lines = (results / "summary.txt").read_text().splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == list(STEPS)
    assert [line.split(":")[0] for line in lines if ": FAILED, exit code" in line] == [step]
    assert lines[-1] == f"FAILED: {step}" == done.stdout.splitlines()[-1]


def test_two_failures_are_both_told(tmp_path: Path) -> None:
    done = run(tmp_path, failing="tests sanitizer", RESULTS=str(tmp_path / "results"))
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "FAILED: tests sanitizer"


@pytest.mark.parametrize(
    ("failing", "words"), [("smi", "nvidia-smi sees no GPU"), ("gpu", "is missing or sees no CUDA GPU")]
)
def test_without_a_gpu_nothing_is_run(failing: str, words: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    done = run(tmp_path, failing=failing, RESULTS=str(results))
    assert done.returncode == 2
    assert words in done.stderr and "nothing was run" in done.stderr
    assert not results.exists()


def test_the_limits_stay_under_ten_minutes() -> None:
    script = (ROOT / "bench" / "gpu.sh").read_text().splitlines()
    limits = [int(line.split()[2]) for line in script if line.lstrip().startswith("step ")]
    assert len(limits) == len(STEPS)
    assert sum(limits) < 600
