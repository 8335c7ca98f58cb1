"""What nvcc makes of the CUDA kernels, as far as it shows without a GPU; the table and its check: nvcc_table.py.

``csrc/*/kernel.cu`` are compiled with the flags and for the architectures of setup.py; ptxas says how many registers a
kernel takes and what it spills, the machine code how wide its accesses of global memory are, and csrc's own plan how
many threads and how much dynamic shared memory a launch has."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from bench.launches import MACHINES
from bench.machine import ROOT
from bench.sass import Code, accesses, occupancy, tool, wide_share

CSRC = ROOT / "csrc"
#: Further flags: a warning is an error.
STRICT = ("-Xcompiler", "-fPIC,-Werror", "--Werror", "all-warnings")
SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
_DTYPES = {"d": "float64", "f": "float32", "6__half": "float16", "13__nv_bfloat16": "bfloat16"}
#: What a flag of a kernel means when it is false and when it is true; of batch norm's, always the layout.
LAYOUTS = ("NHWC", "NCHW")
FLAGS = {
    "bce_with_logits": ("a loss per element", "reduced"),
    "bce_with_logits_backward": ("a gradient per element", "one gradient"),
}
#: (channels, side, batch): DCGAN's batch norms, and one that is small enough for kernels that none of these launches.
LAYERS = tuple((channels, side, 128) for channels, side in ((512, 2), (256, 4), (128, 8), (64, 16)))
SMALL = (512, 2, 8)
#: A program that answers a line of gpu_plan's arguments (six numbers, and the GPU's three) with its plan.
PLANS = """
#include <iostream>
#include "batch_norm_act/gpu_plan.h"
int main() {
  int64_t n[9];
  while (std::cin >> n[0] >> n[1] >> n[2] >> n[3] >> n[4] >> n[5] >> n[6] >> n[7] >> n[8]) {
    const auto plan = fastgan::batch_norm_act::gpu_plan(n[0], n[1], n[2], n[3], n[4], n[5], {n[6], n[7], n[8] != 0});
    std::cout << plan.vector << ' ' << plan.threads << ' ' << plan.cluster << ' ' << plan.dynamic << '\\n';
  }
}
"""


class Kernel(NamedTuple):
    """``form``: what else it is an instance for, the elements of a load, the layout."""

    name: str
    dtype: str
    form: str


class Usage(NamedTuple):
    """What ptxas reports: registers and bytes (stack frame, spilled by stores and loads) a thread, bytes of static
    shared memory a block."""

    registers: int
    stack: int
    spills: int
    shared: int


class Launch(NamedTuple):
    """A layer, and threads and bytes of dynamic shared memory of a block of its launch."""

    layer: str
    threads: int
    dynamic: int


@dataclass(frozen=True)
class Row:
    """A kernel on one architecture.

    Attributes:
        layer: of DCGAN's, with tensors that are as aligned as the form's loads and no more, the one whose launch has
            the lowest occupancy; ``threads``, ``dynamic`` and ``occupancy`` are of that launch. Empty: all launches
            are alike.
        load, store: bytes a thread of the widest access of global memory.
        wide_loads, wide_stores: share of those of 16 bytes among the instructions, each counted once wherever it is.
    """

    kernel: str
    dtype: str
    form: str
    arch: int
    registers: int
    stack: int
    spills: int
    shared: int
    layer: str
    threads: int
    dynamic: int
    occupancy: float
    load: int
    store: int
    wide_loads: float
    wide_stores: float

    @property
    def key(self) -> tuple[Kernel, int]:
        return Kernel(self.kernel, self.dtype, self.form), self.arch


@cache
def setting(name: str) -> Any:
    """A constant of setup.py."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.literal_eval(node.value)
    raise KeyError(name)


def architectures() -> tuple[int, ...]:
    """Those whose machine code setup.py builds where no GPU says which."""
    return tuple(int(each.partition("+")[0].replace(".", "")) for each in setting("DEFAULT_CUDA_ARCHS").split(";"))


def _nvcc() -> str | None:
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def _cuobjdump() -> str | None:
    found = find_spec("triton")
    folder = Path(found.origin).parent if found is not None and found.origin is not None else None
    return shutil.which("cuobjdump") or (shutil.which(tool("cuobjdump", folder)) if folder is not None else None)


def reason() -> str | None:
    """None if the kernels can be audited here, otherwise why not."""
    if _nvcc() is None:
        return "no nvcc on PATH or in /usr/local/cuda"
    return None if _cuobjdump() is not None else "no cuobjdump on PATH or in Triton's wheel"


def version() -> str:
    """The compiler's."""
    printed = subprocess.run([str(_nvcc()), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\bV(\d+\.\d+\.\d+)", printed)
    assert found, printed
    return found[1]


def build(source: Path, output: Path, archs: Sequence[int], extra: Sequence[str] = ()) -> str:
    """Compile one file as setup.py does; what nvcc and ptxas say.

    Raises:
        RuntimeError: the compiler's words.
    """
    from torch.utils.cpp_extension import COMMON_NVCC_FLAGS, include_paths

    macros = ("USE_CUDA", f"TORCH_TARGET_VERSION={setting('TORCH_TARGET_VERSION')}", "FASTGAN_DISPATCH_KEY=CUDA")
    command = [str(_nvcc()), "-c", str(source), "-o", str(output), f"-I{CSRC}", *(f"-D{macro}" for macro in macros)]
    command += [flag for path in include_paths() for flag in ("-isystem", path)]
    command += [*COMMON_NVCC_FLAGS, *setting("NVCC_FLAGS"), "-Xptxas", "-v", *extra]
    command += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return done.stderr


def demangled(name: str) -> Kernel:
    """A kernel of csrc by its name in an object file."""
    rest, part = name.removeprefix("_ZN"), ""
    while length := re.match(r"\d+", rest):
        end = length.end() + int(length[0])
        part, rest = rest[length.end() : end], rest[end:]
    found = re.match(rf"I({'|'.join(_DTYPES)})((?:L[ib]\d+E)*)E", rest)
    if found is None:
        raise ValueError(f"not a kernel of a dtype, numbers and flags: {name}")
    part = part.removesuffix("_kernel")
    flags = LAYOUTS if part.startswith("batch_norm_act") else FLAGS.get(part, ("false", "true"))
    values = re.findall(r"L([ib])(\d+)E", found[2])
    form = (f"vector {value}" if kind == "i" else flags[int(value)] for kind, value in values)
    return Kernel(part, _DTYPES[found[1]], ", ".join(form))


def usages(report: str) -> dict[tuple[str, int], Usage]:
    """By mangled name and architecture, what ``ptxas -v`` reports."""
    found: dict[tuple[str, int], Usage] = {}
    for block in report.split("Compiling entry function '")[1:]:
        head = re.match(r"(\w+)' for 'sm_(\d+)a?'", block)
        assert head, block
        frame = re.search(
            rf"properties for {head[1]}\n\s*(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads",
            block,
        )
        used = re.findall(r"Used (\d+) registers(.*)", block)
        if frame is None or len(used) != 1:  # two architectures' lines between each other, for instance
            raise ValueError(f"ptxas does not report of {head[1]} alone: {block}")
        shared = re.search(r"(\d+) bytes smem", used[0][1])
        stack, stores, loads = map(int, frame.groups())
        found[head[1], int(head[2])] = Usage(int(used[0][0]), stack, stores + loads, int(shared[1]) if shared else 0)
    return found


def functions(listing: str) -> dict[str, str]:
    """The machine code of each kernel of an architecture."""
    blocks = (block.partition("\n") for block in listing.split("Function : ")[1:])
    return {name.strip(): code for name, _, code in blocks}


def _listing(output: Path, arch: int) -> str:
    command = [str(_cuobjdump()), "-sass", "-arch", f"sm_{arch}", str(output)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def row(kernel: Kernel, arch: int, usage: Usage, code: str, launches: Sequence[Launch]) -> Row:
    """Of stores the generic ones count too, which nvcc makes of some; generic loads are of other blocks' shared
    memory."""

    def filled(launch: Launch) -> float:
        shared = usage.shared + launch.dynamic
        return occupancy(Code(usage.registers, usage.spills, shared, launch.threads // 32, "none", 1.0), arch)

    launch = min(launches, key=filled)
    loads, stores = accesses(code, "LDG", "LDGSTS"), accesses(code, "STG", "ST")
    return Row(
        *kernel,
        arch,
        *usage,
        *launch,
        occupancy=round(filled(launch), 3),
        load=max(loads, default=0),
        store=max(stores, default=0),
        wide_loads=round(wide_share(loads), 3),
        wide_stores=round(wide_share(stores), 3),
    )


class Plans:
    """How csrc launches the layers."""

    def __init__(self, folder: Path) -> None:
        self._program = folder / "plans"
        source = self._program.with_suffix(".cpp")
        source.write_text(PLANS)
        command = [str(_nvcc()), "-std=c++20", f"-I{CSRC}", str(source), "-o", str(self._program)]
        subprocess.run(command, check=True, capture_output=True)
        found = re.search(r"kBceThreads = (\d+);", (CSRC / "bce_with_logits" / "kernel.cuh").read_text())
        assert found
        self._loss = Launch("", int(found[1]), 0)

    def launches(self, kernel: Kernel, arch: int) -> list[Launch]:
        """The kernel's of DCGAN's layers, or, where there are none, of the small one."""
        if not kernel.name.startswith("batch_norm_act"):
            return [self._loss]
        found = self._of(kernel, arch, LAYERS) or self._of(kernel, arch, [SMALL])
        assert found, (kernel, arch)
        return found

    def _of(self, kernel: Kernel, arch: int, layers: Sequence[tuple[int, int, int]]) -> list[Launch]:
        words = kernel.form.replace(",", "").split()
        vector, planes = int(words[1]), words[2] == "NCHW"
        tensors = 2 if re.search("backward|sums|gradient", kernel.name) else 1
        itemsize, machine = SIZES[kernel.dtype], MACHINES[arch]
        gpu = itemsize, tensors, vector * itemsize, machine.processors, machine.shared, int(machine.major >= 9)
        shapes = (
            (batch, channels, side**2) if planes else (batch * side**2, channels, 1) for channels, side, batch in layers
        )
        asked = "".join(" ".join(map(str, (*shape, *gpu))) + "\n" for shape in shapes)
        printed = subprocess.run([str(self._program)], input=asked, capture_output=True, text=True, check=True).stdout
        found = []
        for (channels, side, batch), line in zip(layers, printed.splitlines(), strict=True):
            width, threads, cluster, dynamic = map(int, line.split())
            one_pass = "cluster" in kernel.name
            if width == vector and (cluster > 0 or not one_pass):
                name = f"{channels} at {side}x{side}, batch {batch}"
                found.append(Launch(name, threads, dynamic if one_pass else 0))
        return found


def audit(archs: Sequence[int], only: str = "", extra: Sequence[str] = ()) -> list[Row]:
    """A row per kernel whose name contains ``only``, dtype, form and architecture; every file is compiled once."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        plans = Plans(Path(folder))
        for source in sorted(CSRC.glob("*/kernel.cu")):
            output = Path(folder, f"{source.parent.name}.o")
            used = usages(build(source, output, archs, extra))
            for arch in archs:
                for name, code in functions(_listing(output, arch)).items():
                    kernel = demangled(name)
                    if only in kernel.name:
                        rows.append(row(kernel, arch, used.pop((name, arch)), code, plans.launches(kernel, arch)))
            assert only or not used, f"no machine code of {used}"
    return sorted(rows, key=lambda each: each.key)
