"""The suite is tested: every planted bug of tests/mutants.py must make it fail."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parent.parent
TESTS_FAILED = 1  # pytest's exit code; 2 to 5 mean that nothing was judged


def _copy(folder: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", "*.so", "_build_info.py")
    for name in ("fastgan", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)


def _plant(folder: Path, mutant: Mutant) -> None:
    path = folder / mutant.file
    text = path.read_text()
    assert text.count(mutant.old) == 1, f"{mutant.name}: the text to replace occurs {text.count(mutant.old)} times"
    path.write_text(text.replace(mutant.old, mutant.new))


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_planted_bug_is_killed(mutant: Mutant, tmp_path: Path) -> None:
    _copy(tmp_path)
    _plant(tmp_path, mutant)
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, *shlex.split(mutant.tests)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == TESTS_FAILED, f"{mutant.name} survived:\n{result.stdout[-1500:]}{result.stderr[-500:]}"


def test_names_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_planted_bug_still_applies(mutant: Mutant) -> None:
    assert (ROOT / mutant.file).read_text().count(mutant.old) == 1
