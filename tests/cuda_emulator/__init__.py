"""CUDA kernels of csrc on a CPU: builds the emulator's program (emulator.h says what it finds) and gives it jobs."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(__file__).resolve().parent
#: Optimised, they take four times as long to compile.
SANITIZERS = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


class KernelError(RuntimeError):
    """What the emulator, or a sanitizer, says of a kernel."""


def toolkit() -> Path | None:
    """The folder of CUDA's headers, of which the kernels need the 16-bit types."""
    homes = (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda")
    folders = [Path(home, "include") for home in homes if home]
    triton = importlib.util.find_spec("triton")
    if triton is not None and triton.origin is not None:  # its wheel has them too
        folders.append(Path(triton.origin).parent / "backends" / "nvidia" / "include")
    return next((folder for folder in folders if (folder / "cuda_bf16.h").exists()), None)


def reason() -> str | None:
    """None if the emulator can be built here, otherwise why not."""
    if shutil.which(_compiler()) is None:
        return "no C++ compiler"
    return None if toolkit() is not None else "no headers of CUDA (CUDA_HOME, /usr/local/cuda, Triton)"


def compile_all(objects: dict[Path, Path], options: Sequence[str] = (), csrc: Path = ROOT / "csrc") -> None:
    """Compile sources, of which each has its object, against the emulator and that device code; two at a time."""
    include = [f"-I{FOLDER}", f"-I{csrc}", "-isystem", str(toolkit()), "-include", "emulator.h"]
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]  # nvcc's
    command = [_compiler(), "-std=c++20", "-O1", "-g", *warnings, "-DFASTGAN_CUDA_EMULATOR"]

    def compiled(item: tuple[Path, Path]) -> None:
        source, target = map(str, item)
        done = subprocess.run(
            [*command, *include, *options, "-c", source, "-o", target], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compiled, objects.items()))


def link(program: Path, objects: Iterable[Path], options: Sequence[str] = ()) -> None:
    subprocess.run([_compiler(), *options, *map(str, objects), "-o", str(program)], check=True)


def _compiler() -> str:
    return os.environ.get("CXX", "g++")


class Emulator:
    """The running program."""

    def __init__(self, program: Path) -> None:
        environment = {**os.environ, "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"}
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    def run(self, words: Sequence[object], arrays: Sequence[torch.Tensor] = ()) -> bytes:
        """The answer to a job of these words and arrays.

        Raises:
            KernelError: what is wrong with the kernel.
        """
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin is not None and stdout is not None and stderr is not None
        raw = [array.detach().flatten().view(torch.uint8).numpy().tobytes() for array in arrays if array.numel()]
        stdin.write(" ".join(map(str, words)).encode() + b"\n" + b"".join(raw))
        stdin.flush()
        kind, _, rest = stdout.readline().partition(b" ")
        if kind == b"ok":
            return stdout.read(int(rest))
        raise KernelError(rest.decode().strip() if kind == b"failure" else stderr.read().decode(errors="replace"))


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="cuda-emulator-")


@functools.cache
def program(sanitized: bool) -> tuple[Path, dict[Path, Path]]:
    """The emulator's program and the object of each source, built once a process."""
    path, options = Path(_folder().name) / ("sanitized" if sanitized else "plain"), SANITIZERS if sanitized else ()
    objects = {source: path.with_name(f"{path.name}-{source.stem}.o") for source in sorted(FOLDER.glob("*.cpp"))}
    compile_all(objects, options)
    link(path, objects.values(), options)
    return path, objects


def with_other_device_code(name: str, csrc: Path, folder: Path) -> Path:
    """The program, but for ``<name>.cpp`` with that device code; built in ``folder``."""
    source, (_, objects) = FOLDER / f"{name}.cpp", program(False)
    other = {source: folder / f"{name}.o"}
    compile_all(other, csrc=csrc)
    link(folder / "program", (objects | other).values())
    return folder / "program"


@contextmanager
def planted(name: str, error: tuple[str, str, str], folder: Path) -> Iterator[Emulator]:
    """The program with an error in ``<name>.cpp``'s device code: (file of csrc, what is there, what stands instead)."""
    file, right, wrong = error
    csrc = shutil.copytree(ROOT / "csrc", folder / "csrc")
    text = (csrc / file).read_text()
    assert text.count(right) == 1
    (csrc / file).write_text(text.replace(right, wrong))
    running = Emulator(with_other_device_code(name, csrc, folder))
    try:
        yield running
    finally:
        running.close()


@contextmanager
def emulator(sanitized: bool = False) -> Iterator[Emulator]:
    """The program, running."""
    running = Emulator(program(sanitized)[0])
    try:
        yield running
    finally:
        running.close()
