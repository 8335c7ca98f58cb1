"""``fastgan verify``: is this installation right on this machine?

Every op, dtype, memory layout and backend over a dozen shapes, forward and each gradient, against torch in float64 on
the same device. The rule: ``error <= 2 * torch's own error at that dtype + 2 ulp``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from fastgan import dispatch
from fastgan.ops.common import triton_runtime
from fastgan.verify.report import Row, print_table, rows_of, to_json
from fastgan.verify.runner import DTYPES, NotRun, Result, applies, no_tf32, verify_case
from fastgan.verify.shapes import CASES

__all__ = ["run", "verify"]


def verify(device: torch.device, backends: Sequence[str], quick: bool = False) -> list[Result | NotRun]:
    """Run the cases with TF32 off.

    Args:
        device: where.
        backends: names from :data:`fastgan.dispatch.BACKENDS`.
        quick: about a third of the shapes.

    Returns:
        A :class:`Result` per result of a case and backend, a :class:`NotRun` where a backend does not run it.
    """
    interpreted = device.type == "cpu" and triton_runtime.interpreting()
    found: list[Result | NotRun] = []
    with no_tf32():
        for case in CASES:
            names = [name for name in backends if case.small or not (name == "triton" and interpreted)]
            for dtype in DTYPES:
                if (case.quick or not quick) and applies(case, dtype):
                    found += verify_case(case, dtype, names, device)
    return found


def run(device: torch.device, backends: Sequence[str] | None, quick: bool, json_file: Path | None) -> int:
    """Verify, print the table, and write every single result to ``json_file`` if there is one.

    ``backends``: names from :data:`fastgan.dispatch.BACKENDS`; None for all that can run.

    Returns:
        0: the rule holds; 1: it does not, somewhere; 2: a backend that was asked for cannot run here.
    """
    found = verify(device, list(dict.fromkeys(backends or dispatch.BACKENDS)), quick)
    rows: list[Row] = rows_of(found)
    print_table(rows, found, device)
    if json_file is not None:
        json_file.write_text(json.dumps(to_json(found, device), indent=1) + "\n")
    if any(not row.worst.verdict.ok for row in rows):
        return 1
    idle = [name for name in backends or () if not any(row.worst.backend == name for row in rows)]
    if idle:
        print(f"fastgan verify: {', '.join(idle)} was asked for and cannot run here", file=sys.stderr)
        return 2
    return 0
