"""``fastgan verify``: is this installation right on this machine?

Every op, dtype, memory layout and backend over a dozen shapes, forward and each gradient, against torch in float64 on
the same device. The rule: ``error <= 2 * torch's own error at that dtype + 2 ulp``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

from fastgan import dispatch
from fastgan.ops.common import triton_runtime
from fastgan.verify.report import Row, print_table, rows_of, to_json
from fastgan.verify.runner import DTYPES, NotRun, Result, applies, no_tf32, verify_case
from fastgan.verify.shapes import CASES

__all__ = ["main", "verify"]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def _device(text: str) -> torch.device:
    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"must be cpu or cuda, got {text!r}")
    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("this torch sees no CUDA GPU")
    return torch.device(text)


def _json_file(text: str) -> Path:
    path = Path(text)
    if not path.parent.is_dir() or path.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write a file {text!r}")
    return path


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser = _Parser(prog="fastgan verify", description="Check every op on this machine against torch in float64.")
    parser.add_argument("--device", type=_device, default=default, help="cpu or cuda (default: %(default)s)")
    parser.add_argument(
        "--backend",
        nargs="+",
        choices=dispatch.BACKENDS,
        metavar="NAME",
        help=f"only these of {', '.join(dispatch.BACKENDS)}; one that cannot run at all is then an error",
    )
    parser.add_argument("--quick", action="store_true", help="about a third of the shapes")
    parser.add_argument("--json", type=_json_file, metavar="FILE", help="also write every single result there")
    return parser.parse_args(argv)


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


def main(argv: Sequence[str]) -> int:
    """Run ``fastgan verify`` with the arguments ``argv``.

    Returns:
        0: the rule holds; 1: it does not, somewhere; 2: a backend that was asked for cannot run here.

    Raises:
        SystemExit: wrong arguments (code 2, after one line), or ``--help``.
    """
    args = _parse(argv)
    backends = list(dict.fromkeys(args.backend or dispatch.BACKENDS))
    found = verify(args.device, backends, args.quick)
    rows: list[Row] = rows_of(found)
    print_table(rows, found, args.device)
    if args.json is not None:
        args.json.write_text(json.dumps(to_json(found, args.device), indent=1) + "\n")
    if any(not row.worst.verdict.ok for row in rows):
        return 1
    idle = [name for name in args.backend or () if not any(row.worst.backend == name for row in rows)]
    if idle:
        print(f"fastgan verify: {', '.join(idle)} was asked for and cannot run here", file=sys.stderr)
        return 2
    return 0
