"""What the Triton convolutions would cost a GPU, as far as it shows without one: ``python -m bench audit``.

Each launch is recorded as the launcher makes it, compiled for a GPU that need not be there, and, for DCGAN's layers
on an H100, interpreted with its loads, stores and matrix products counted. The table is committed
(bench/results/audit/audit.json); ``--check`` fails where a row got worse. No row is a measurement of a GPU's time:
``model_us`` is what the counts would take at the rates that the choice of tiles assumes, and only comparisons of it
mean something."""

from __future__ import annotations

import heapq
import json
import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, TypeVar

from bench.counts import SECTOR, Counted, Programs, counts
from bench.launches import COMPILED, COUNTED, MACHINES, Case, recorded
from bench.machine import ROOT
from bench.sass import WARPS, compiled, occupancy
from fastgan import files
from fastgan.ops.conv_transpose2d import triton_tiles as tiles

TABLE = ROOT / "bench" / "results" / "audit" / "audit.json"
MEMORY = 3.0e6  # bytes of an H100's memory a microsecond
COUNTING_ARCH = 90

Result = TypeVar("Result")


@dataclass(frozen=True)
class Row:
    """One case: its first launch and, where that one splits its sums, the one that adds them.

    Attributes:
        wide: share of 16-byte instructions among the loads from global memory.
        instruction: the kind of matrix product, "FFMA" where there is none.
        flops, sectors: executed over useful ones: of the products inside the image, of reading and writing each operand
            once; for the H100's launches of the layers that are counted.
        model_us: microseconds from both, see :func:`makespan`, and of a second launch; not of index arithmetic, of
        shuffles
            between threads, of latencies, nor of sectors that a program loads more than once.
    """

    name: str
    arch: int
    kernels: str
    programs: int
    registers: int
    spills: int
    shared: int
    occupancy: float
    instruction: str
    wide: float
    flops: float | None = None
    sectors: float | None = None
    model_us: float | None = None
    passes: float | None = None


def useful(case: Case) -> tuple[float, float]:
    """(FLOPs inside the image, sectors of each operand once)."""
    small, big = case.cs * case.size**2 * case.batch, case.cb * (2 * case.size) ** 2 * case.batch
    flops = 2.0 * case.batch * (4 * case.size - 2) ** 2 * case.cs * case.cb
    return flops, (small + big + 16 * case.cs * case.cb) * case.itemsize / SECTOR


def makespan(counted: Programs, resident: int) -> float:
    """Microseconds until the last program ends. They start in order, each as soon as one of ``resident`` places of a
    multiprocessor is free; a program takes what its products or its sectors take at the rates of fastgan's choice of
    tiles, of which those that share a multiprocessor have equal shares."""
    resident = min(resident, -(-len(counted) // tiles.PROCESSORS))
    free = [0.0] * tiles.PROCESSORS * resident
    for flops, sectors in counted:
        took = max(flops / tiles.FLOPS, sectors * SECTOR / tiles.BYTES)
        heapq.heapreplace(free, free[0] + resident * took)
    return max(max(free), sum(sectors for _, sectors in counted) * SECTOR / tiles.ALL_BYTES)


def row(case: Case, arch: int, count: Counted | None = None) -> Row:
    """Compile a case's launches for ``sm_<arch>`` and put them beside their counts."""
    launches = recorded(case, arch)
    codes = [compiled(launch.kernel, launch.arguments, arch) for launch in launches]
    filled = [occupancy(code, arch) for code in codes]
    work: dict[str, Any] = {}
    if count is not None:
        counted = count.launches
        assert [len(each) for each in counted] == [math.prod(launch.grid) for launch in launches], case.name
        flops, sectors = (sum(program[i] for programs in counted for program in programs) for i in (0, 1))
        least = useful(case)
        resident = [round(share * WARPS / code.warps) for share, code in zip(filled, codes, strict=True)]
        time = sum(makespan(*each) for each in zip(counted, resident, strict=True))
        time += tiles.LAUNCH * (len(launches) - 1)
        work = {"flops": round(flops / least[0], 2), "sectors": round(sectors / least[1], 2)}
        work["model_us"] = round(max(time, least[1] * SECTOR / MEMORY), 1)
        if count.passes is not None:
            work["passes"] = round(count.passes, 2)
    return Row(
        name=case.name,
        arch=arch,
        kernels=" + ".join(launch.kernel.__name__ for launch in launches),
        programs=math.prod(launches[0].grid),
        registers=max(code.registers for code in codes),
        spills=max(code.spills for code in codes),
        shared=max(code.shared for code in codes),
        occupancy=round(filled[0], 3),
        instruction=codes[0].instruction,
        wide=round(codes[0].wide, 2),
        **work,
    )


def audit(archs: Sequence[int], only: str = "", uncounted: bool = False) -> list[Row]:
    """A row per GPU and case whose name contains ``only``; ``uncounted``: without the columns that take an
    interpreter."""
    cases = [case for case in (*COUNTED, *COMPILED) if only in case.name]
    counting = [case for case in cases if case in COUNTED and COUNTING_ARCH in archs and not uncounted]
    counted = dict(zip(counting, _in_processes(counts, [(case,) for case in counting], interpret=True), strict=True))
    jobs = [(case, arch, counted.get(case) if arch == COUNTING_ARCH else None) for arch in archs for case in cases]
    return _in_processes(row, jobs)


def _in_processes(
    function: Callable[..., Result], jobs: Sequence[tuple[Any, ...]], interpret: bool = False
) -> list[Result]:
    """``function`` of each job, in one process per core, with Triton's interpreter or its compiler: it looks at the
    environment when it is imported."""
    if not jobs:
        return []
    context, workers = multiprocessing.get_context("spawn"), min(os.cpu_count() or 1, len(jobs))
    before = os.environ.pop("TRITON_INTERPRET", None)
    os.environ.update({"TRITON_INTERPRET": "1"} if interpret else {})
    try:
        with ProcessPoolExecutor(workers, context) as pool:
            return list(pool.map(function, *zip(*jobs, strict=True)))
    finally:
        os.environ.pop("TRITON_INTERPRET", None)
        os.environ.update({} if before is None else {"TRITON_INTERPRET": before})


def worse(rows: Sequence[Row], committed: Sequence[Row], compilers_differ: bool = False) -> Iterator[str]:
    """What got worse since the committed table, in words; of another compiler's table only the counts are compared."""
    before = {(each.name, each.arch): each for each in committed}
    for each in rows:
        old = before.get((each.name, each.arch))
        if old is None:
            yield f"{each.name}, sm_{each.arch}: not in {TABLE.name}"
            continue
        machine_code = () if compilers_differ else (("spills", 1), ("wide", -1), ("occupancy", -1))
        for key, sign in (("flops", 1), ("sectors", 1), ("passes", 1), *machine_code):
            now, then = getattr(each, key), getattr(old, key)
            if now is not None and (then is None or sign * (now - then) > 0.005):
                yield f"{each.name}, sm_{each.arch}: {key} {then} -> {now}"
        if old.instruction != each.instruction and not compilers_differ:
            yield f"{each.name}, sm_{each.arch}: instruction {old.instruction} -> {each.instruction}"


def committed() -> list[Row]:
    """The table under bench/results."""
    return [Row(**each) for each in json.loads(TABLE.read_text())["rows"]]


def text(rows: Sequence[Row]) -> str:
    """The table in Markdown."""
    keys = list(asdict(rows[0]))
    lines = ["| " + " | ".join(keys) + " |", "|" + " --- |" * len(keys)]
    for each in rows:
        values = ("" if value is None else str(value) for value in asdict(each).values())
        lines.append("| " + " | ".join(values) + " |")
    return "\n".join(lines)


def summary(rows: Sequence[Row]) -> str:
    """The rows that are counted, in Markdown: what stands in bench/README.md."""
    lines = [
        "| layer | programs | registers | shared KB | instruction | products | sectors | model µs | extra passes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in rows:
        if each.flops is not None:
            name = each.name.replace(", bf16 NHWC, batch 128", "")
            values = (each.programs, each.registers, each.shared >> 10, each.instruction)
            work = (
                f"{each.flops:.2f}",
                f"{each.sectors:.2f}",
                f"{each.model_us:.1f}",
                "" if each.passes is None else f"{each.passes:.2f}",
            )
            lines.append("| " + " | ".join(map(str, (name, *values, *work))) + " |")
    return "\n".join(lines)


def main(check: bool, archs: Sequence[int], only: str, uncounted: bool) -> int:
    """Print the table; with ``check`` compare it with the committed one, and return 1 if a row is worse. Otherwise
    write it, if it is whole."""
    rows = audit(archs or tuple(MACHINES), only, uncounted)
    if not rows:
        print(f"bench audit: no case whose name contains {only!r}", file=sys.stderr)
        return 2
    print(text(rows))
    if check:
        made_by = json.loads(TABLE.read_text())["triton"]
        differ = made_by != version("triton")
        if differ:
            print(
                f"the table is Triton {made_by}'s, this is {version('triton')}: only counts are compared",
                file=sys.stderr,
            )
        found = list(worse(rows, committed(), differ))
        print("\n".join(found) or "no row is worse than in the committed table", file=sys.stderr)
        return 1 if found else 0
    if not archs and not only and not uncounted:
        lines = ",\n".join(json.dumps(asdict(each), ensure_ascii=False) for each in rows)
        files.atomic_write(TABLE, f'{{"triton": "{version("triton")}", "rows": [\n{lines}\n]}}\n'.encode())
    return 0
