"""The table of ``fastgan verify``: one row per op, result, dtype, layout and backend; the worst shape speaks for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fastgan.verify.runner import NotRun, Result
from fastgan.version import __version__


@dataclass(frozen=True)
class Row:
    """``worst``: the result, over all shapes, that strains the rule most; ``count``: how many shapes there were."""

    worst: Result
    count: int


def rows_of(found: Sequence[Result | NotRun]) -> list[Row]:
    """One row per op, result, dtype, layout and backend."""
    groups: dict[tuple[str, ...], list[Result]] = {}
    for item in found:
        if isinstance(item, Result):
            key = (item.op, item.backend, item.result, item.dtype, item.layout)
            groups.setdefault(key, []).append(item)
    # each column in the order in which its values first came up
    orders = [list(dict.fromkeys(key[column] for key in groups)) for column in range(5)]
    ordered = sorted(groups, key=lambda key: [order.index(part) for order, part in zip(orders, key, strict=True)])
    return [Row(max(groups[key], key=lambda item: item.verdict.strain), len(groups[key])) for key in ordered]


def print_table(rows: Sequence[Row], found: Sequence[Result | NotRun], device: torch.device) -> None:
    """Print the rows op by op, then the backends that did not run, then the verdict."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"fastgan {__version__}, torch {torch.__version__}, {where}")
    print("rule: error <= 2 * torch's error + 2 ulp, against float64; TF32 off; each row shows its worst shape")
    print("float64 rows: small integers, where every sum is exact")
    head = ("result", "dtype", "layout", "backend", "error", "torch's", "allowed", "ratio", "", "worst of", "shape")
    for op in dict.fromkeys(row.worst.op for row in rows):
        cells = [head, *(_cells(row) for row in rows if row.worst.op == op)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
        print(f"\n{op}")
        for line in cells:
            print("  " + "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    reasons = dict.fromkeys((item.op, item.backend, item.reason) for item in found if isinstance(item, NotRun))
    if reasons:
        print("\nnot run")
        for op, backend, reason in reasons:
            print(f"  {op}  {backend}: {reason}")
    wrong = [item for item in found if isinstance(item, Result) and not item.verdict.ok]
    total = sum(isinstance(item, Result) for item in found)
    print(f"\n{total} results, {len(wrong)} break the rule")
    for item in wrong:
        print(
            f"  FAIL {item.op}, {item.result}, {item.dtype}, {item.layout}, {item.backend}, {item.case}: "
            f"error {item.verdict.error:.3g}, allowed {item.verdict.allowed:.3g}"
        )


def _cells(row: Row) -> tuple[str, ...]:
    worst, verdict = row.worst, row.worst.verdict
    numbers = tuple(f"{number:.2g}" for number in (verdict.error, verdict.torch_error, verdict.allowed, verdict.ratio))
    status = "ok" if verdict.ok else "FAIL"
    return (worst.result, worst.dtype, worst.layout, worst.backend, *numbers, status, str(row.count), worst.case)


def to_json(found: Sequence[Result | NotRun], device: torch.device) -> dict[str, Any]:
    """Everything, for machines. A number that is not finite is the string "inf"."""
    results, not_run = [], []
    for item in found:
        if isinstance(item, NotRun):
            not_run.append({"op": item.op, "backend": item.backend, "reason": item.reason})
            continue
        verdict = item.verdict
        numbers = {"error": verdict.error, "torch_error": verdict.torch_error, "allowed": verdict.allowed}
        results.append(
            {
                **{name: getattr(item, name) for name in ("op", "case", "result", "dtype", "layout", "backend")},
                **{name: number if math.isfinite(number) else "inf" for name, number in numbers.items()},
                "ok": verdict.ok,
            }
        )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    versions = {"fastgan": __version__, "torch": torch.__version__}
    unique = [dict(pairs) for pairs in dict.fromkeys(tuple(entry.items()) for entry in not_run)]
    return {"device": name, "versions": versions, "results": results, "not_run": unique}
