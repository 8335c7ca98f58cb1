"""``python -m tests.wheels PYTHON PYTHON ...``: wheels built beside one torch, tested beside the others.

Each PYTHON is an environment's interpreter with its own torch (>= 2.11), setuptools, wheel, ninja, pytest and
hypothesis. With each a wheel is built from the sdist; every wheel, and the pure Python one, is then installed into an
empty folder for every PYTHON and tested there, in a folder that holds the sdist's tests and no fastgan. The last lines
are a table; exit status 1 if a cell of it failed. One PYTHON is a legal list; two with different versions of torch are
the proof that the stable ABI holds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
#: What an installed wheel has to pass, with the compiled module (pytest's arguments).
NATIVE_TESTS = (
    "tests/test_native.py",
    "tests/ops/test_native_bce_with_logits.py",
    "tests/ops/test_bce_with_logits.py",
    "tests/test_dispatch.py",
)
#: And without it.
PURE_TESTS = ("tests/ops/test_bce_with_logits.py", "tests/nn/test_loss.py", "tests/test_dispatch.py")

DESCRIBE = """
import json, torch, fastgan
print(json.dumps({"torch": torch.__version__, "file": fastgan.__file__, "info": fastgan.build_info()}))
"""


def clean_environment(**changes: str) -> dict[str, str]:
    """This process's environment without what would steer pip, the build or the imports, plus ``changes``."""
    drop = ("FASTGAN_", "PYTHON", "PIP_", "PYTEST_", "COVERAGE_", "CXX", "CC", "TRITON_")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(drop)}
    return {**kept, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **changes}


def run(command: list[object], **kwargs: object) -> str:
    """What a command printed; RuntimeError with its output if it fails."""
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, **kwargs)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{result.stdout}\n{result.stderr}")
    return result.stdout + result.stderr


def build_sdist(folder: Path) -> Path:
    """The sdist, built from a copy, so that nothing is written beside the sources."""
    leave_out = shutil.ignore_patterns(
        ".*", "build", "dist", "runs", "shared", "*.egg-info", "*.so", "__pycache__", "_build_info.py"
    )
    shutil.copytree(ROOT, folder / "copy", ignore=leave_out)
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation", "-o", folder, folder / "copy"]
    run(command, env=clean_environment())
    (sdist,) = folder.glob("fastgan-*.tar.gz")
    return sdist


def build_wheel(python: Path | str, sdist: Path, folder: Path, **changes: str) -> tuple[Path, str]:
    """(the wheel made from the sdist alone, what the build printed)."""
    command = [python, "-m", "pip", "wheel", "-v", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    output = run([*command, "-w", folder, sdist], env=clean_environment(**changes), cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel, output


def describe(python: Path, site: Path, elsewhere: Path) -> dict[str, object]:
    """torch's version, where fastgan comes from and what it says of itself, for a wheel installed in ``site``."""
    environment = clean_environment(PYTHONPATH=str(site))
    output = run([python, "-W", "error", "-c", DESCRIBE], env=environment, cwd=elsewhere)
    answer = json.loads(output.splitlines()[-1])
    if not Path(answer["file"]).is_relative_to(site):
        raise RuntimeError(f"fastgan was imported from {answer['file']}, not from {site}")
    return answer


def check(python: Path, wheel: Path, native: bool, sdist: Path, folder: Path) -> str:
    """Installs the wheel in a folder of its own, tests it beside ``python``'s torch; returns pytest's last line."""
    site, elsewhere = folder / "site", folder / "elsewhere"
    command = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel]
    run(command, env=clean_environment(), cwd=folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    unpacked = folder / sdist.name.removesuffix(".tar.gz")
    elsewhere.mkdir()
    for name in ("tests", "csrc", "pyproject.toml"):
        shutil.move(unpacked / name, elsewhere / name)
    answer = describe(python, site, elsewhere)
    loaded = answer["info"]["native_cpu"] == "loaded"
    if loaded != native:
        raise RuntimeError(f"native_cpu: {answer['info']['native_cpu']}")
    tests = NATIVE_TESTS if native else PURE_TESTS
    # interpreted kernels are slow, know nothing of the wheel, and fail with Triton 3.6 and NumPy 2.4
    chosen = ["-m", "not slow", "-k", "not triton", *tests]
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    output = run(command, env=clean_environment(PYTHONPATH=str(site), OMP_NUM_THREADS="1"), cwd=elsewhere)
    return output.strip().splitlines()[-1]


def main(pythons: list[Path]) -> int:
    """Builds, tests, prints the table and returns the number of failures."""
    versions = {p: run([p, "-c", "import torch; print(torch.__version__)"]).splitlines()[-1] for p in pythons}
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sdist = build_sdist(folder)
        wheels: list[tuple[str, Path, bool]] = []
        for i, (python, mode) in enumerate([(pythons[0], "off"), *((p, "cpu") for p in pythons)]):
            (folder / f"build{i}").mkdir()
            wheel, _ = build_wheel(python, sdist, folder / f"build{i}", FASTGAN_BUILD=mode)
            wheels.append((f"torch {versions[python]}" if mode == "cpu" else "pure Python", wheel, mode == "cpu"))
            print(f"built {wheel.name} beside torch {versions[python]}, FASTGAN_BUILD={mode}", flush=True)
        lines = []
        for built, wheel, native in wheels:
            for python in pythons:
                place = Path(tempfile.mkdtemp(dir=folder))
                try:
                    outcome = check(python, wheel, native, sdist, place)
                except RuntimeError as error:
                    failures += 1
                    outcome = "FAILED"
                    print(error, file=sys.stderr)
                lines.append(f"{built:<24} {'torch ' + versions[python]:<24} {outcome}")
    print(f"{'wheel built beside':<24} {'tested beside':<24} result")
    print("\n".join(lines))
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.wheels", description=__doc__)
    parser.add_argument("python", nargs="+", type=lambda text: Path(text).absolute())
    sys.exit(1 if main(parser.parse_args().python) else 0)
