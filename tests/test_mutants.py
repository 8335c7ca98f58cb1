"""The suite is tested: every planted bug of tests/mutants.py must make it fail."""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import py_compile
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parent.parent
TESTS_FAILED = 1  # pytest's exit code; 2 to 5 mean that nothing was judged


def _copy(folder: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "_build_info.py", "results")
    for name in ("bench", "fastgan", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    # valid by a digest of the source, which a planted bug changes, and not by its time and size, which it might not
    by_content = py_compile.PycInvalidationMode.CHECKED_HASH
    assert compileall.compile_dir(folder / "fastgan", quiet=1, invalidation_mode=by_content)


@contextlib.contextmanager
def _planted(folder: Path, mutant: Mutant) -> Iterator[None]:
    """The bug is in the copy; afterwards it is out again."""
    path = folder / mutant.file
    text = path.read_text()
    assert text == (ROOT / mutant.file).read_text()
    assert text.count(mutant.old) == 1, f"{mutant.name}: the text to replace occurs {text.count(mutant.old)} times"
    path.write_text(text.replace(mutant.old, mutant.new))
    try:
        yield
    finally:
        path.write_text(text)


class Copy(NamedTuple):
    """A copy of the tree, compiled once for all the bugs, and the server that runs pytest in it."""

    folder: Path
    server: subprocess.Popen[str]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    """With tests/forking.py as the server, which spares each run the import of torch."""
    folder = tmp_path_factory.mktemp("copy")
    _copy(folder)
    command = [sys.executable, "-I", str(ROOT / "tests" / "forking.py")]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads}
    ) as process:
        yield Copy(folder, process)
        assert process.stdin is not None
        process.stdin.close()


def _pytest(copy: Copy, tests: str, output: Path) -> tuple[int, str]:
    """(exit code, what it printed) of these tests in the copy of the tree."""
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header"]
    job = {"folder": str(copy.folder), "arguments": [*options, *shlex.split(tests)]}
    job |= {"output": str(output), "seconds": 300}
    assert copy.server.stdin is not None and copy.server.stdout is not None
    copy.server.stdin.write(json.dumps(job) + "\n")
    copy.server.stdin.flush()
    code = int(copy.server.stdout.readline())
    return code, output.read_text(errors="replace")


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_planted_bug_is_killed(mutant: Mutant, tmp_path: Path, copy: Copy) -> None:
    with _planted(copy.folder, mutant):
        code, printed = _pytest(copy, mutant.tests, tmp_path / "output.txt")
    assert code == TESTS_FAILED, f"{mutant.name} survived (exit code {code}):\n{printed[-2000:]}"


@pytest.mark.slow
def test_the_copy_is_what_runs(tmp_path: Path, copy: Copy) -> None:
    where = copy.folder / "tests" / "test_where.py"
    where.write_text(
        "import fastgan, tests\n"
        "def test_where():\n"
        f"    root = {str(copy.folder)!r}\n"
        "    assert fastgan.__file__.startswith(root) and tests.__file__.startswith(root)\n"
    )
    code, printed = _pytest(copy, "tests/test_where.py", tmp_path / "output.txt")
    where.unlink()
    assert code == 0, printed


def test_names_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_planted_bug_still_applies(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
