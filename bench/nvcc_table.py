"""The audit of the CUDA kernels: ``python -m bench audit --nvcc``.

The table of nvcc.py's rows and of the bytes that batch norm moves in the emulator of the tests is committed
(bench/results/audit/nvcc.json); ``--check`` fails where a row got worse. No row is a measurement of a GPU's time."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench import audit, nvcc
from bench.machine import ROOT
from bench.nvcc import Row
from bench.readme import with_table
from fastgan import files

TABLE = ROOT / "bench" / "results" / "audit" / "nvcc.json"
README = ROOT / "bench" / "README.md"
ABSENT = 3  # the exit code where there is no nvcc
#: What a row must not lose: 1 where more is worse, -1 where less is.
SIGNS = {"spills": 1, "stack": 1, "occupancy": -1, "load": -1, "store": -1, "wide_loads": -1, "wide_stores": -1}


@dataclass(frozen=True)
class Moved:
    """Passes over a bfloat16 tensor of activations whose bytes batch norm moves in training, counted in the emulator,
    and those that it needs: x and y forward, x, dy and dx backward, and in two passes x, and x and dy, once more."""

    form: str
    layout: str
    shape: list[int]
    forward: float
    backward: float
    least: list[int]


def moved() -> list[Moved]:
    """Batch norm's bytes in every form, or nothing where there is no emulator."""
    from tests import cuda_emulator
    from tests.cuda_emulator.batch_norm_act import PASSES, Kernels, passes

    if cuda_emulator.reason() is not None:
        print(f"bench audit: bytes are not counted: {cuda_emulator.reason()}", file=sys.stderr)
        return []
    found = []
    with cuda_emulator.emulator() as running:
        for form, least in PASSES.items():
            for layout in ("NHWC", "NCHW"):
                shape, (forward, backward) = passes(Kernels(running, form), layout == "NHWC")
                found.append(Moved(form, layout, shape, round(forward, 3), round(backward, 3), list(least)))
    return found


def worse(rows: Sequence[Row], committed: Sequence[Row], compilers_differ: bool = False) -> Iterator[str]:
    """What got worse since the committed table, in words; another compiler's rows are not compared."""
    before = {each.key: each for each in committed}
    for each in rows:
        name = f"{each.kernel}, {each.dtype}, {each.form}, sm_{each.arch}"
        old = before.get(each.key)
        if old is None:
            yield f"{name}: not in {TABLE.name}"
            continue
        for key, sign in SIGNS.items():
            now, then = getattr(each, key), getattr(old, key)
            if sign * (now - then) > 0.005 and not compilers_differ:
                yield f"{name}: {key} {then} -> {now}"


def moves_more(found: Sequence[Moved], committed: Sequence[Moved]) -> Iterator[str]:
    """Where more bytes are moved than in the committed table, in words."""
    before = {(each.form, each.layout): each for each in committed}
    for each in found:
        old = before.get((each.form, each.layout))
        for key in ("forward", "backward"):
            now, then = getattr(each, key), getattr(old, key, 0.0)
            if now - then > 0.0005:
                yield f"{each.form}, {each.layout}: passes {key} {then} -> {now}"


def committed() -> tuple[str, list[Row], list[Moved]]:
    """nvcc's version and the table."""
    table = json.loads(TABLE.read_text())
    return table["nvcc"], [Row(**each) for each in table["rows"]], [Moved(**each) for each in table["moved"]]


def summary(rows: Sequence[Row], found: Sequence[Moved]) -> str:
    """What stands in bench/README.md: for sm_90 and bfloat16 the instances of the widest loads, and the bytes."""
    lines = [
        "| kernel | form | registers | static shared KB | layer | threads | dynamic shared KB | occupancy "
        "| 16-byte loads | 16-byte stores |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in rows:
        if (each.arch, each.dtype) == (90, "bfloat16") and ("vector" not in each.form or "vector 8" in each.form):
            kilobytes = f"{each.shared / 1024:.1f}", f"{each.dynamic / 1024:.0f}"
            shares = f"{each.wide_loads:.0%}", f"{each.wide_stores:.0%}"
            launch = each.layer or "any", each.threads, kilobytes[1], f"{each.occupancy:.2f}"
            cells = each.kernel, each.form.replace("vector 8, ", ""), each.registers, kilobytes[0], *launch, *shares
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| form | layout | bfloat16 tensor | forward | backward |", "|---|---|---|---|---|"]
    for moves in found:
        both = zip((moves.forward, moves.backward), moves.least, strict=True)
        passes = (f"{now:.3f} S, {now / least:.3f} of {least} S" for now, least in both)
        lines.append("| " + " | ".join((moves.form, moves.layout, str(moves.shape), *passes)) + " |")
    return "\n".join(lines) + "\n"


def _write(rows: Sequence[Row], found: Sequence[Moved]) -> None:
    """The table, and its part in bench/README.md."""
    lines = (",\n".join(json.dumps(asdict(each)) for each in part) for part in (rows, found))
    named = ",\n".join(f'"{name}": [\n{part}\n]' for name, part in zip(("rows", "moved"), lines, strict=True))
    files.atomic_write(TABLE, f'{{"nvcc": "{nvcc.version()}",\n{named}}}\n'.encode())
    README.write_text(with_table(README.read_text(), summary(rows, found)))


def main(check: bool, archs: Sequence[int], only: str, uncounted: bool) -> int:
    """Print the table; with ``check`` compare it with the committed one, and return 1 if a row is worse. Otherwise
    write it, if it is whole."""
    if nvcc.reason() is not None:
        print(f"bench audit: the CUDA kernels are passed over: {nvcc.reason()}", file=sys.stderr)
        return ABSENT
    rows = nvcc.audit(archs or nvcc.architectures(), only)
    if not rows:
        print(f"bench audit: no kernel whose name contains {only!r}", file=sys.stderr)
        return 2
    found = [] if uncounted else moved()
    tables: list[Sequence[Any]] = [rows, found]
    print("\n\n".join(audit.text(table) for table in tables if table))
    if check:
        made_by, old_rows, old_moved = committed()
        differ = made_by != nvcc.version()
        if differ:
            print(f"the table is nvcc {made_by}'s, this is {nvcc.version()}: only bytes are compared", file=sys.stderr)
        wrong = [*worse(rows, old_rows, differ), *moves_more(found, old_moved)]
        print("\n".join(wrong) or "no row is worse than in the committed table", file=sys.stderr)
        return 1 if wrong else 0
    if found and not archs and not only:
        _write(rows, found)
    return 0
