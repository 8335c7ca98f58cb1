"""The suite is tested: every planted bug of tests/mutants.py must make it fail."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parent.parent
TESTS_FAILED = 1  # pytest's exit code; 2 to 5 mean that nothing was judged


def _copy(folder: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "_build_info.py", "results")
    for name in ("bench", "fastgan", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)


def _plant(folder: Path, mutant: Mutant) -> None:
    path = folder / mutant.file
    text = path.read_text()
    assert text.count(mutant.old) == 1, f"{mutant.name}: the text to replace occurs {text.count(mutant.old)} times"
    path.write_text(text.replace(mutant.old, mutant.new))


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    """tests/forking.py, which spares each run the import of torch."""
    command = [sys.executable, "-I", str(ROOT / "tests" / "forking.py")]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads}
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def _pytest(server: subprocess.Popen[str], folder: Path, tests: str) -> tuple[int, str]:
    """(exit code, what it printed) of these tests in a copy of the tree."""
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header"]
    output = folder / "output.txt"
    job = {"folder": str(folder), "arguments": [*options, *shlex.split(tests)], "output": str(output), "seconds": 300}
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps(job) + "\n")
    server.stdin.flush()
    code = int(server.stdout.readline())
    return code, output.read_text(errors="replace")


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_planted_bug_is_killed(mutant: Mutant, tmp_path: Path, server: subprocess.Popen[str]) -> None:
    _copy(tmp_path)
    _plant(tmp_path, mutant)
    code, printed = _pytest(server, tmp_path, mutant.tests)
    assert code == TESTS_FAILED, f"{mutant.name} survived (exit code {code}):\n{printed[-2000:]}"


@pytest.mark.slow
def test_the_copy_is_what_runs(tmp_path: Path, server: subprocess.Popen[str]) -> None:
    _copy(tmp_path)
    (tmp_path / "tests" / "test_where.py").write_text(
        "import fastgan, tests\n"
        "def test_where():\n"
        f"    assert fastgan.__file__.startswith({str(tmp_path)!r}) and tests.__file__.startswith({str(tmp_path)!r})\n"
    )
    assert _pytest(server, tmp_path, "tests/test_where.py")[0] == 0


def test_names_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_planted_bug_still_applies(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
