"""``python -m tests.upstream``: PyTorch's own samples computed by fastgan, as one table.

Exit status 0 if nothing failed, 1 otherwise. Samples of a dtype that fastgan does not have are refused, which is right.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections import Counter

import torch

import fastgan
from tests.upstream.routing import ROUTED
from tests.upstream.samples import SUBJECTS
from tests.upstream.table import Row, rows

COLUMNS = "{:<38} {:<10} {:<13} {:>7} {:>8} {:>6} {:>7}  {:<9} {:<13} {:<24}"
HEADINGS = (
    "function or layer",
    "dtype",
    "layout",
    "samples",
    "compared",
    "failed",
    "refused",
    "gradcheck",
    "gradgradcheck",
    "forward AD: torch, ours",
)


def line(row: Row) -> str:
    """A row as text; what needs float64 is "-" elsewhere."""
    total = row.differentiated
    derivatives = ["-"] * 3
    if total:
        ours = f"{row.passed['forward']}/{total} right" if not row.no_forward else "refused"
        derivatives = [f"{row.passed[name]}/{total}" for name in ("gradcheck", "gradgradcheck")]
        derivatives.append(f"{row.passed['torch forward']}/{total}, {ours}")
    dtype = str(row.dtype).removeprefix("torch.")
    numbers = (row.samples - row.other_layout, row.compared, len(row.failures), row.refused.total())
    return COLUMNS.format(row.subject, dtype, row.layout, *numbers, *derivatives).rstrip()


def report(device: torch.device, subjects: list[str], backend: str | None) -> int:
    """Prints the table and returns the number of failures."""
    print(f"fastgan {fastgan.__version__}, torch {torch.__version__}, {device}, backend {backend or 'chosen per call'}")
    print(COLUMNS.format(*HEADINGS).rstrip())
    table: list[Row] = []
    forced = fastgan.use_backend(backend) if backend else contextlib.nullcontext()
    with forced, fastgan.dispatch.trace() as calls:
        for row in rows(device, subjects):
            print(line(row), flush=True)
            table.append(row)
    failures = [f"{row.subject} {row.dtype} {row.layout}: {text}" for row in table for text in row.failures]
    print(
        f"\n{sum(row.compared for row in table)} comparisons of {sum(row.samples for row in table)} samples, ", end=""
    )
    print(f"{len(failures)} failures. Routed: {dict(ROUTED)}. Ran on: {dict(Counter(name for _, name in calls))}.")
    for title, reasons in (
        ("Refused", sum((row.refused for row in table), Counter[str]())),
        ("No forward AD", sum((row.no_forward for row in table), Counter[str]())),
    ):
        for reason, count in reasons.items():
            print(f"{title}, {count} samples: {reason}")
    print(f"Left out, {sum(row.other_layout for row in table)} samples: too few dimensions for the layout")
    for failure in failures:
        print(f"FAILED {failure}")
    return len(failures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.upstream", description=__doc__)
    parser.add_argument("subjects", nargs="*", default=list(SUBJECTS), help="such as F.conv2d; default: all")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--backend", choices=fastgan.dispatch.BACKENDS, help="forced; default: chosen per call")
    arguments = parser.parse_args()
    sys.exit(1 if report(arguments.device, arguments.subjects, arguments.backend) else 0)
