"""``python -m bench audit``: what it counts, what it reads in machine code, and that the shipped kernels keep their
bars."""

from __future__ import annotations

import ast
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bench import audit, counts, sass
from bench.launches import COMPILED, COUNTED, LINKS, MACHINES, Case
from tests.ops.triton_compile import missing_tools

ROOT = Path(__file__).parents[1]
needs_tools = pytest.mark.skipif(missing_tools() is not None, reason=str(missing_tools()))
ROW = audit.Row("a launch", 90, "a_kernel", 32, 128, 0, 49152, 0.25, "HGMMA", 1.0, 1.0, 4.0, 10.0, 1.0)

LISTING = """
        /*0100*/                   LDGSTS.E.BYPASS.LTC128B.128 [R5], desc[UR8][R2.64] ;
        /*0110*/                   LDG.E.128 R4, desc[UR8][R2.64] ;
        /*0120*/                   LDG.E.U16 R4, desc[UR8][R2.64] ;
        /*0130*/                   LDG.E.64 R4, desc[UR8][R2.64] ;
        /*0140*/                   HMMA.16816.F32.BF16 R4, R4, R8, RZ ;
        /*0150*/                   HGMMA.64x64x16.F32.BF16 R4, gdesc[UR4], R4 ;
        /*0160*/                   STG.E.128 desc[UR8][R2.64], R4 ;
"""


def test_a_listing() -> None:
    assert sass.read_listing(LISTING) == ("HGMMA", 0.5)
    assert sass.read_listing("FFMA R1, R2, R3, R4 ;") == ("FFMA", 1.0)
    assert sass.read_listing("MOV R1, R2 ;") == ("none", 1.0)


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "expected"),
    [(32, 0, 4, 1.0), (128, 0, 4, 0.25), (255, 0, 8, 0.125), (32, 110 << 10, 4, 0.125), (32, 200 << 10, 4, 0.0625)],
)
def test_occupancy(registers: int, shared: int, warps: int, expected: float) -> None:
    """By hand: 65,536 registers in units of 256 a warp, 228 KB of shared memory, 64 warps."""
    assert sass.occupancy(sass.Code(registers, 0, shared, warps, "none", 1.0), 90) == expected


def test_makespan() -> None:
    """By hand: the 133rd program waits for a place, or shares a multiprocessor with another one."""
    one = (6_000_000, 0)  # a microsecond of products
    assert audit.makespan([one] * 132, 1) == audit.makespan([one] * 132, 4) == 1
    assert audit.makespan([one] * 133, 1) == audit.makespan([one] * 133, 2) == 2
    assert audit.makespan([(0, 3438)], 1) == pytest.approx(1, rel=1e-3)  # 110 KB
    assert audit.makespan([(0, 3438)] * 132, 1) == pytest.approx(2.64, rel=1e-3)  # 14.5 MB from the shared cache


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spills": 8}, "spills 0 -> 8"),
        ({"flops": 1.02}, "flops 1.0 -> 1.02"),
        ({"sectors": 4.1}, "sectors 4.0 -> 4.1"),
        ({"passes": 1.1}, "passes 1.0 -> 1.1"),
        ({"wide": 0.9}, "wide 1.0 -> 0.9"),
        ({"occupancy": 0.12}, "occupancy 0.25 -> 0.12"),
        ({"instruction": "HMMA"}, "instruction HGMMA -> HMMA"),
        ({"name": "another"}, "another, sm_90: not in audit.json"),
    ],
)
def test_what_is_worse_is_said(change: dict[str, object], words: str) -> None:
    (line,) = audit.worse([replace(ROW, **change)], [ROW])  # type: ignore[arg-type]
    assert words in line


def test_of_another_compiler_only_counts_are_compared() -> None:
    other = replace(ROW, spills=8, wide=0.5, occupancy=0.1, instruction="HMMA")
    assert list(audit.worse([other], [ROW], compilers_differ=True)) == []
    (line,) = audit.worse([replace(other, sectors=5.0)], [ROW], compilers_differ=True)
    assert "sectors" in line


def test_what_is_better_is_not() -> None:
    better = replace(ROW, flops=0.9, sectors=3.0, occupancy=0.5, registers=200, model_us=20.0)
    uncounted = replace(ROW, flops=None, sectors=None, model_us=None)
    assert list(audit.worse([ROW, better, uncounted], [ROW])) == []


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m bench audit`` in a process that does not interpret."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench", "audit", *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=900)


@needs_tools
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_kernel_for_sm_90_got_worse() -> None:
    done = run("--check", "--arch", "90", "--uncounted")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("HGMMA") > 20


@needs_tools
def test_no_count_got_worse() -> None:
    done = run("--check", "--arch", "90", "--only", "conv_transpose2d 64→3, 16x16→32x32, bf16 NHWC, batch 128")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_name_that_no_case_has() -> None:
    done = run("--only", "nothing")
    assert done.returncode == 2 and "'nothing'" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are compiled here, not interpreted")
@pytest.mark.parametrize("op", ["conv_transpose2d", "conv2d", "conv2d_weight"])
def test_counts_by_hand(op: str) -> None:
    """Of a layer with one tile of channels: products are tiles, sectors what lies under a program's loads and
    stores."""
    case = Case(op, 64, 64, 2, batch=64)
    (programs,) = counts.counts(case).launches
    flops, sectors = (sum(program[i] for program in programs) for i in (0, 1))
    least = audit.useful(case)
    assert flops == least[0] == 2 * 36 * 64**3  # six of eight pairs of a pixel and a tap are inside, along each axis
    row, tile = 64 * 2 // 32, 64 * 64 * 2 // 32  # sectors of a pixel's channels, of a tile
    if op == "conv2d_weight":
        assert len(programs) == 16 and sectors == 2 * 36 * tile + 16 * tile
    elif op == "conv2d":
        assert len(programs) == 4 and sectors == 4 * (9 * tile + 9 * tile + tile)
    else:  # 16 places of the output: their taps (1 + 2 + 2 + 1) squared
        assert len(programs) == 16 and sectors == 2 * 36 * tile + 16 * tile
    assert row * 64 == tile


#: Passes over activations beyond the bare convolution's: a gradient of the input reads the output, whose gradient it
#: completes, and the input, for the activation; one of the weight reads the output.
PASSES = {"": 0.0, " grad_input": 2.0, " grad_weight": 1.0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are compiled here, not interpreted")
@pytest.mark.parametrize("op", LINKS)
def test_passes_of_a_link(op: str) -> None:
    """Nothing but the activations that it must read, and what belongs to channels."""
    found = counts.counts(Case(op, 64, 64, 4, batch=64)).passes
    assert found is not None and 0 <= found - PASSES[op.partition("_stats")[2]] < 0.06


def few(row: audit.Row) -> bool:
    return any(case.few for case in (*COUNTED, *COMPILED) if case.name == row.name)


def test_the_committed_table_keeps_the_bars() -> None:
    rows = audit.committed()
    assert {(row.name, row.arch) for row in rows} == {
        (case.name, arch) for case in (*COUNTED, *COMPILED) for arch in MACHINES
    }
    assert [row for row in rows if row.spills] == []
    dense = [row for row in rows if "bf16 NHWC" in row.name or "fp16 NHWC" in row.name]
    assert [row for row in dense if row.instruction != {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}[row.arch]] == []
    plain = [row for row in dense if not few(row) and "act" not in row.name and "stats" not in row.name]
    assert [row for row in plain if row.wide < 1] == []
    links = [row for row in rows if row.passes is not None]
    assert len(links) == sum(case.op in LINKS for case in COUNTED)
    for row in links:
        most = next((passes for part, passes in PASSES.items() if part and part in row.name), PASSES[""])
        assert row.passes is not None and 0 <= row.passes < most + 0.06, row.name
    counted = {row.name: row for row in rows if row.flops is not None}
    for case in COUNTED:
        flops = counted[case.name].flops
        assert flops is not None and not math.isnan(flops)
        assert case.few or flops <= (1.15 if case.size >= 8 else 1.3), case.name


def test_the_readme_has_the_committed_table() -> None:
    assert audit.summary(audit.committed()) in (ROOT / "bench" / "README.md").read_text()


def test_every_kernel_is_in_the_table() -> None:
    folder = ROOT / "fastgan" / "ops"
    sources = (*(folder / "conv_transpose2d").rglob("triton_*.py"), *(folder / "common").glob("triton_*.py"))
    nodes = (node for path in sources for node in ast.parse(path.read_text()).body)
    kernels = {n.name for n in nodes if isinstance(n, ast.FunctionDef) and n.name.endswith("_kernel")}
    launched = {name for row in audit.committed() for name in row.kernels.split(" + ")}
    assert kernels == launched and len(kernels) > 5
