"""bench/gpu.sh with stand-ins for python3, nvidia-smi and compute-sanitizer: no step stops the others, and what the
machine lacks or refuses is told. bench/sanitize_gpu.py and bench/repeat_gpu.py on the CPU."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import __main__ as bench_main
from bench import repeat_gpu, sanitize_gpu
from fastgan.native import native_reason

ROOT = Path(__file__).resolve().parent.parent
STEPS = (
    "versions",
    "build",
    "tests",
    "memcheck",
    "racecheck",
    "repeatability",
    "verify",
    "benchmark",
    "report",
)

# Which command line of python3 belongs to which step; FAILING lists the steps that fail.
PYTHON = """#!/usr/bin/env bash
echo "python3 $*"
step=other
case "$*" in
    *torch.cuda.is_available*) step=gpu ;;
    *"pip install"*|*"setup.py"*) step=build ;;
    *"-m pytest"*) step=tests ;;
    *"cli verify"*|*"fastgan.verify.run"*) step=verify ;;
    *"bench run"*"--list"*)
        step=listing
        printf '%s\\n' "a comparison" "round 1: batch 128: 2 block; until minute 0.1" "rounds: 3 minutes" "by $*"
        ;;
    *"bench run"*)
        step=benchmark
        echo "limit $LIMIT"
        [[ " $FAILING " == *" no-json "* ]] || echo '{}' > "$RESULTS/bench.json"
        ;;
    *"bench report"*)
        step=report
        printf '%s\\n' "head" "**The run was cut.**"
        printf '%s\\n' "## Default choice" "| in bench.txt |" "" "## Beside each form of torch" "" "| op | 1.23 |" ""
        printf '%s\\n' "## conv2d" "| every case |" "" "## Not reached" "" "* batch 1024: 1" "    * its name"
        if [[ "$*" == *--plots* ]]; then touch "$RESULTS/ratios-1-threads.png" "$RESULTS/roofline-1-threads.png"; fi
        ;;
    *repeat_gpu*) step=repeatability ;;
    *matplotlib*) step=matplotlib ;;
    *"import typer"*) step=typer ;;
    *"import hypothesis"*) step=hypothesis ;;
    *native_reason*) [[ -z "$NATIVE" ]] || { echo "$NATIVE"; exit 77; } ;;
esac
if [[ "$*" == *"build_ext --help"* ]]; then
    step=nvcc
    [[ " $FAILING " != *" nvcc "* ]] || echo "fastgan: FASTGAN_BUILD=cuda, but no CUDA toolkit"
fi
if [[ "$*" == *--build-lib* ]]; then
    mkdir -p "$RESULTS/modules/fastgan" && touch "$RESULTS/modules/fastgan/_native_cuda.abi3.so"
fi
[[ " $FAILING " != *" $step "* ]] || exit 3
"""
NVIDIA_SMI = """#!/usr/bin/env bash
[[ " $FAILING " != *" smi "* ]] || exit 9
case "$*" in
    *query-gpu=name,driver*) echo "NVIDIA Made-Up 1, 999.1, 12 MiB" ;;
    *query-gpu=name*) echo "NVIDIA Made-Up 1" ;;
    *) echo "GPU 0: NVIDIA Made-Up 1" ;;
esac
"""
SANITIZER = """#!/usr/bin/env bash
echo "compute-sanitizer $* without cache: $PYTORCH_NO_CUDA_MEMORY_CACHING"
if [[ " $FAILING " == *" refused "* ]]; then
    echo "========= Error: Device not supported"
    exit 1
fi
if [[ " $FAILING " == *" broken "* ]]; then
    echo "Traceback (most recent call last):"
    echo "ImportError: no such module"
    exit 1
fi
if [[ " $FAILING " == *" $2 "* ]]; then
    echo "========= ERROR SUMMARY: 1 error"
    exit 99
fi
echo "========= ERROR SUMMARY: 0 errors"
"""

pytestmark = pytest.mark.skipif(shutil.which("timeout") is None, reason="needs GNU timeout")
needs_native = pytest.mark.skipif(native_reason("cpu") is not None, reason=str(native_reason("cpu")))


def run(folder: Path, *arguments: str, failing: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    programs = folder / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    for name, text in (("python3", PYTHON), ("nvidia-smi", NVIDIA_SMI), ("compute-sanitizer", SANITIZER)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    dropped = ("OUT", "RESULTS", "PYTHON", "TORCH_CUDA_ARCH_LIST", "PYTORCH_NO_CUDA_MEMORY_CACHING")
    environment = {key: value for key, value in os.environ.items() if key not in dropped}
    environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "FAILING": failing, "NATIVE": ""} | variables
    command = ["bash", str(ROOT / "bench" / "gpu.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=60)


def step_lines(results: Path) -> dict[str, str]:
    """What the summary says of each step, in its order."""
    lines = (results / "summary.txt").read_text().splitlines()
    return {line.split(":")[0]: line.split(": ", 1)[1] for line in lines if line.split(":")[0] in STEPS}


def test_all_steps_pass(tmp_path: Path) -> None:
    results = tmp_path / "results"
    done = run(tmp_path, RESULTS=str(results))
    assert done.returncode == 0, done.stderr
    assert tuple(step_lines(results)) == STEPS
    assert all(line.startswith("passed (") for line in step_lines(results).values())
    names = {path.name for path in results.iterdir()}
    plots = {"ratios-1-threads.png", "roofline-1-threads.png"}
    assert names == {"summary.txt", "build.txt", "tests.txt", "checks.txt", "bench.txt", "bench.json"} | plots
    assert "python3 -m bench run --device cuda" in (results / "bench.txt").read_text()
    checks = (results / "checks.txt").read_text()
    for tool in ("memcheck", "racecheck"):
        line = f"compute-sanitizer --tool {tool} --error-exitcode 99 python3 -m bench.sanitize_gpu without cache: 1"
        assert line in checks
    assert "python3 -m bench.repeat_gpu --seconds 20" in checks


def test_the_summary_has_the_machine_the_table_and_the_outcome_on_one_page(tmp_path: Path) -> None:
    results = tmp_path / "results"
    run(tmp_path, RESULTS=str(results))
    lines = (results / "summary.txt").read_text().splitlines()
    assert lines[0] == "machine: NVIDIA Made-Up 1, 999.1, 12 MiB"
    assert "get_device_capability" in lines[1]  # what the stand-in was asked for
    assert lines[2].startswith("commit: ")
    assert lines[lines.index("**The run was cut.**") :] == [
        "**The run was cut.**",
        "## Beside each form of torch",
        "| op | 1.23 |",
        "## Not reached",
        "* batch 1024: 1",
        "",
        "all steps passed",
    ]
    assert len(lines) <= 60


@pytest.mark.parametrize("step", ["build", "tests", "memcheck", "racecheck", "repeatability", "verify", "benchmark"])
def test_a_failing_step_stops_nothing_and_is_told(step: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    done = run(tmp_path, failing=step, OUT=str(results))
    assert done.returncode == 1
    lines = step_lines(results)
    assert tuple(lines) == STEPS
    assert [name for name, line in lines.items() if line.startswith("FAILED, exit code")] == [step]
    last = (results / "summary.txt").read_text().splitlines()[-1]
    assert last == f"FAILED: {step}" == done.stdout.splitlines()[-1]


def test_two_failures_are_both_told(tmp_path: Path) -> None:
    done = run(tmp_path, failing="tests racecheck", RESULTS=str(tmp_path / "results"))
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "FAILED: tests racecheck"


def test_a_tool_that_the_machine_refuses_is_told_and_is_no_failure(tmp_path: Path) -> None:
    results = tmp_path / "results"
    done = run(tmp_path, failing="refused", RESULTS=str(results))
    assert done.returncode == 0
    lines = step_lines(results)
    for name in ("memcheck", "racecheck"):
        assert lines[name].startswith("not run (")
        assert lines[name].endswith("compute-sanitizer refuses this machine: ========= Error: Device not supported")
    assert done.stdout.splitlines()[-2:] == ["not run: memcheck racecheck", "no step failed"]


def test_a_program_that_breaks_under_the_sanitizer_is_a_failure(tmp_path: Path) -> None:
    done = run(tmp_path, failing="broken", RESULTS=str(tmp_path / "results"))
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == "FAILED: memcheck racecheck"


def test_without_a_result_or_matplotlib_the_report_says_so(tmp_path: Path) -> None:
    results = tmp_path / "results"
    done = run(tmp_path, failing="benchmark no-json", RESULTS=str(results))
    assert done.returncode == 1
    assert "the benchmark left no bench.json" in step_lines(results)["report"]
    done = run(tmp_path, failing="matplotlib", RESULTS=str(results))
    assert done.returncode == 0
    assert "no plots: python3 has no matplotlib" in (results / "summary.txt").read_text()
    assert not list(results.glob("*.png"))


def test_what_cannot_be_installed_without_a_network_is_done_without(tmp_path: Path) -> None:
    results = tmp_path / "results"
    done = run(tmp_path, failing="typer hypothesis", RESULTS=str(results))
    assert done.returncode == 0
    text = (results / "tests.txt").read_text()
    for module in ("typer", "hypothesis"):
        assert f"no {module}: the test files that import it are errors below" in text
    assert "fastgan.verify.run(" in (results / "checks.txt").read_text()


def test_the_tests_can_be_collected_by_pytest_alone() -> None:
    """Without its plugins, which pyproject.toml and some tests name; hypothesis's is one."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--collect-only", "tests/test_native.py"]
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment = {key: value for key, value in environment.items() if not key.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_cuda_sources_compile_without_warnings" in done.stdout


def test_more_than_eight_files_are_told(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (results / "other.txt").touch()
    done = run(tmp_path, RESULTS=str(results))
    assert done.returncode == 1
    assert "9 files, at most eight are meant to be there" in step_lines(results)["report"]


@pytest.mark.parametrize(
    ("failing", "words"), [("smi", "nvidia-smi sees no GPU"), ("gpu", "is missing or sees no CUDA GPU")]
)
def test_without_a_gpu_nothing_is_run(failing: str, words: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    done = run(tmp_path, failing=failing, RESULTS=str(results))
    assert done.returncode == 2
    assert words in done.stderr and "nothing was run" in done.stderr
    assert not results.exists()


def limits() -> list[int]:
    script = (ROOT / "bench" / "gpu.sh").read_text().splitlines()
    return [int(line.split()[2]) for line in script if line.startswith("    step ")]


def test_the_limits_stay_under_ten_minutes() -> None:
    assert len(limits()) == len(STEPS)
    assert sum(limits()) < 600


def test_a_step_may_have_the_time_that_those_before_it_left(tmp_path: Path) -> None:
    """The stand-ins take next to none."""
    run(tmp_path, RESULTS=str(tmp_path / "results"))
    found = re.search(r"^limit (\d+)$", (tmp_path / "results" / "bench.txt").read_text(), re.MULTILINE)
    until = sum(limits()[: STEPS.index("benchmark") + 1])
    assert found is not None and limits()[STEPS.index("benchmark")] < int(found[1]) <= until


def test_the_dry_run_prints_the_plan_and_does_what_needs_no_gpu(tmp_path: Path) -> None:
    results = tmp_path / "results"
    done = run(tmp_path, "--dry-run", failing="smi gpu", RESULTS=str(results))
    assert done.returncode == 0, done.stdout
    headings = re.findall(r"^== (\w+): at most (\d+) s, into (\w+\.txt): (.*)$", done.stdout, re.MULTILINE)
    assert tuple(name for name, *_ in headings) == STEPS
    assert [int(seconds) for _, seconds, *_ in headings] == limits()
    assert f"== at most {sum(limits())} s, {-(-sum(limits()) // 60)} minutes, in all" in done.stdout
    assert '"$PYTHON" -m bench run --device cuda' in done.stdout  # what a function does, not only its name
    checks = [line.split(":")[0] for line in done.stdout.splitlines() if ": passed" in line]
    assert checks == [
        "syntax",
        "the CUDA module",
        "tests to be run",
        "cases to be measured",
        "the calls for compute-sanitizer, on the CPU",
        "repeatability, on the CPU",
    ]
    assert "for TORCH_CUDA_ARCH_LIST=9.0" in done.stdout
    assert "--collect-only" in done.stdout and "--list" in done.stdout
    assert "    round 1: batch 128: 2 block; until minute 0.1\n    rounds: 3 minutes\n" in done.stdout
    assert not results.exists()


def test_the_dry_run_says_why_something_is_not_done_and_fails_where_something_fails(tmp_path: Path) -> None:
    done = run(tmp_path, "--dry-run", failing="nvcc", NATIVE="no compiler")
    assert done.returncode == 0, done.stdout
    assert "the CUDA module: not run: fastgan: FASTGAN_BUILD=cuda, but no CUDA toolkit" in done.stdout
    assert "the calls for compute-sanitizer, on the CPU: not run: no compiler" in done.stdout
    for failing, title in (("tests", "tests to be run"), ("listing", "cases to be measured")):
        done = run(tmp_path, "--dry-run", failing=failing)
        assert done.returncode == 1
        assert f"{title}: FAILED, exit code 3" in done.stdout
        assert done.stdout.splitlines()[-1] == f"FAILED: {title}"


def test_an_unknown_argument_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "--dry")
    assert done.returncode == 2 and "--dry is unknown" in done.stderr


def test_the_listing_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "--device", "cuda", "--list", "--group", "bce_with_logits", "--only", "forward+backward"]
    assert bench_main.main(arguments) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert len(lines) == 10 and re.match(r"10 comparisons of 5 cases: torch, auto, ", last)
    assert bench_main.main([*arguments, "--only", "no such case"]) == 1


@needs_native
def test_what_the_sanitizer_looks_at_runs_natively(capsys: pytest.CaptureFixture[str]) -> None:
    assert sanitize_gpu.main(["--device", "cpu"]) == 0
    text = capsys.readouterr().out
    assert "batch_norm_act" not in text, "all of batch norm can run natively"
    assert re.search(r"^(\d+) native calls ran", text.splitlines()[-1])


def test_equal_bits_are_repeatable_and_others_are_found() -> None:
    zero, minus, nan = torch.zeros(3), torch.tensor([0.0, -0.0, 0.0]), torch.tensor([float("nan")] * 3)
    assert repeat_gpu.repeat(lambda: [zero, nan], 5, 60.0) == (5, "")
    turns = itertools.chain([zero, zero], itertools.repeat(minus))
    assert repeat_gpu.repeat(lambda: [nan, next(turns)], 5, 60.0) == (
        3,
        "call 3, result 1: 1 of 3 values have other bits",
    )
    assert repeat_gpu.repeat(lambda: [zero], 5, -1.0) == (1, "")


@needs_native
def test_the_repeats_are_counted_and_an_unsteady_op_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeat_gpu, "BACKENDS", ("native",))
    assert repeat_gpu.main(["--device", "cpu", "--repeats", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "14 calls repeated, 0 with other bits, 0 fewer than 3 times"
    assert "loss mean, native, bfloat16, nchw: 3 of 3 equal" in lines
    monkeypatch.setattr(repeat_gpu, "NAMES", ("loss mean",))
    monkeypatch.setattr(repeat_gpu, "prepared", lambda *_args: lambda: [torch.rand(2)])
    assert repeat_gpu.main(["--device", "cpu", "--repeats", "3"]) == 1
    assert "DIFFERS: call 2, result 0" in capsys.readouterr().out
