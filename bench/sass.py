"""What a Triton kernel becomes on a GPU that need not be here: registers, spills, matrix instructions, width of
loads."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

#: Registers, bytes of shared memory (and what the driver takes of them per block), warps and blocks of a
#: multiprocessor.
REGISTERS, WARPS, BLOCKS, RESERVED = 65536, 64, 32, 1024
SHARED = {80: 164 << 10, 90: 228 << 10, 100: 228 << 10}
#: Bytes of a wide load, and of an instruction by what is in its name; 4 where nothing is.
WIDE = 16
_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}


@dataclass(frozen=True)
class Code:
    """``shared`` in bytes a block, ``spills`` in bytes a thread, ``instruction`` the kind of matrix product or "none",
    ``wide`` the share of the loads from global memory that take 16 bytes a thread."""

    registers: int
    spills: int
    shared: int
    warps: int
    instruction: str
    wide: float


def compiled(kernel: Any, arguments: dict[str, Any], arch: int) -> Code:
    """The kernel as a launch with these arguments would compile it; only in a process that does not interpret.

    Args:
        arguments: by name; tensors may be on no device, and are taken to be aligned.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types: dict[str, Any] = {}
    constants: dict[Any, Any] = {}
    divisible: dict[Any, Any] = {}

    def typed(value: Any, path: tuple[int, ...], constant: bool, specialize: bool) -> Any:
        if isinstance(value, tuple):
            return tuple(typed(each, (*path, i), constant, specialize) for i, each in enumerate(value))
        constant = constant or value is None or value is True or value is False
        if constant or (isinstance(value, int) and value == 1 and specialize):
            constants[path] = value
            return "constexpr"
        aligned = not isinstance(value, int | float) or (isinstance(value, int) and value % 16 == 0)
        if aligned and specialize:
            divisible[path] = [["tt.divisibility", 16]]
        return _type(value)

    for index, name in enumerate(kernel.arg_names):
        parameter = kernel.params[index]
        types[name] = typed(arguments[name], (index,), parameter.is_constexpr, not parameter.do_not_specialize)
    options = {key: arguments[key] for key in ("num_warps", "num_stages") if key in arguments}
    source = ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=divisible)
    result = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    cubin, folder = result.asm["cubin"], Path(triton.__file__).parent
    registers, spills = usage(cubin, folder)
    instruction, wide = read_listing(listing(cubin, folder))
    return Code(registers, spills, result.metadata.shared, result.metadata.num_warps, instruction, wide)


def _type(value: Any) -> str:
    if isinstance(value, int):
        return "i32" if abs(value) < 1 << 31 else "i64"
    if isinstance(value, float):
        return "fp64"  # the kernels say so of their float arguments
    import torch

    names = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float64: "fp64"}
    return "*" + names[value.dtype]


def tool(name: str, triton_folder: Path) -> Path:
    """Where Triton's wheel has one of NVIDIA's tools, if it came with it."""
    return triton_folder / "backends" / "nvidia" / "bin" / name


def _dump(cubin: bytes, triton_folder: Path, name: str, *options: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [tool(name, triton_folder), *options, path]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def usage(cubin: bytes, triton_folder: Path) -> tuple[int, int]:
    """(registers, bytes of stack) of a kernel without local arrays, whose stack is spilled registers."""
    printed = _dump(cubin, triton_folder, "cuobjdump", "--dump-resource-usage")
    registers, stack, local = (re.search(rf"{key}:(\d+)", printed) for key in ("REG", "STACK", "LOCAL"))
    assert registers and stack and local, printed
    return int(registers[1]), int(stack[1]) + int(local[1])


@cache  # launches for several sizes are often one kernel, and the tool takes half a second
def listing(cubin: bytes, triton_folder: Path) -> str:
    """The machine code, without its encoding and what could be found out about its jumps: a third less time."""
    return _dump(cubin, triton_folder, "nvdisasm", "--print-code", "--no-dataflow")


def read_listing(code: str) -> tuple[str, float]:
    """(kind of matrix product, share of global loads of 16 bytes) of a listing of machine code."""
    found = Counter(re.findall(r"\b(?:HGMMA|UTCHMMA|UTCQMMA|HMMA|DMMA|FFMA|DFMA)\b", code))
    instruction = next((kind for kind in ("UTCHMMA", "HGMMA", "HMMA", "DMMA", "FFMA", "DFMA") if found[kind]), "none")
    loads = [*accesses(code, "LDG", "LDGSTS"), *(WIDE for _ in re.findall(r"\bUTMALDG\b", code))]
    return instruction, wide_share(loads)


def accesses(code: str, *kinds: str) -> list[int]:
    """Bytes a thread of each instruction of these kinds ("LDG", "STG") in a listing of machine code."""
    found = re.findall(rf"\b(?:{'|'.join(kinds)})((?:\.\w+)+)", code)
    return [next((_BYTES[part] for part in each.split(".") if part in _BYTES), 4) for each in found]


def wide_share(accesses: Sequence[int]) -> float:
    """Share of those of 16 bytes or more; 1 if there are none."""
    return sum(each >= WIDE for each in accesses) / len(accesses) if accesses else 1.0


def occupancy(code: Code, arch: int) -> float:
    """Share of a multiprocessor's warps that are resident (CUDA's occupancy calculation; without tensor memory, which
    may limit it further on sm_100)."""
    per_warp = -(-code.registers * 32 // 256) * 256
    blocks = min(
        REGISTERS // (per_warp * code.warps),
        SHARED[arch] // (code.shared + RESERVED),
        WARPS // code.warps,
        BLOCKS,
    )
    return blocks * code.warps / WARPS
