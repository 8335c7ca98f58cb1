"""``python -m bench [run | report FILE | compiled | trainer]``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.cases import CASES
from bench.harness import run_case, settings
from bench.machine import describe, file_name
from bench.report import comparisons, markdown
from fastgan import dispatch

RESULTS = Path(__file__).resolve().parent / "results"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Compare fastgan with torch, case by case.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure and write a result file")
    run.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    run.add_argument("--quick", action="store_true", help="a fifth of the time per case; batch 32 on a CPU")
    run.add_argument("--out", type=Path, metavar="FILE", help="default: bench/results/, named by the machine")
    run.add_argument("--only", metavar="TEXT", default="", help="cases whose name contains TEXT")
    run.add_argument("--threads", type=int, metavar="N", help="of the CPU (default: what torch chooses)")
    run.add_argument("--minutes", type=float, default=float("inf"), help="start no case after that time")
    run.add_argument("--graphs", action="store_true", help="time CUDA graphs too: kernels without the host's share")
    report = commands.add_parser("report", help="print a result file as Markdown")
    report.add_argument("file", type=Path)
    compiled = commands.add_parser("compiled", help="our networks under torch.compile beside themselves, on a CPU")
    compiled.add_argument("--batch-size", type=int, default=32, metavar="N", help="default: %(default)s")
    compiled.add_argument("--rounds", type=int, default=30, metavar="N", help="default: %(default)s")
    trainer = commands.add_parser("trainer", help="what the trainer costs beside networks and optimizers, on a CPU")
    trainer.add_argument("--model", default="cgan", help="default: %(default)s")
    trainer.add_argument("--data", default="digits", help="default: %(default)s")
    trainer.add_argument("--steps", type=int, default=500, metavar="N", help="default: %(default)s")
    trainer.add_argument("--batch-size", type=int, default=128, metavar="N", help="default: %(default)s")
    return parser


def _write(out: Path, content: dict[str, Any]) -> None:
    out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _run(args: argparse.Namespace) -> int:
    device = torch.device(args.device)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    out: Path = args.out or RESULTS / file_name(device)
    content: dict[str, Any] = {"machine": describe(device), "quick": args.quick, "complete": False, "cases": []}
    content["load_before"] = os.getloadavg()[0]
    chosen = [case for case in CASES if args.only in case.id]
    budget = {("cpu", True): 0.6, ("cpu", False): 3.0, ("cuda", True): 0.15, ("cuda", False): 1.0}[
        device.type, args.quick
    ]
    deadline = time.monotonic() + 60 * args.minutes
    wrong = 0
    for case in chosen:
        for setting in settings(case, device, args.quick):
            if time.monotonic() > deadline:
                print(f"stopped after {args.minutes:g} minutes: {out} is not complete")
                return 1 if wrong else 0
            record = run_case(case, setting, ["auto", *dispatch.BACKENDS], budget, args.graphs)
            content["cases"].append(record)
            out.write_text(
                json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            )  # as it goes: a cut run keeps its part
            place = f"{case.id}, {record['dtype']}, {record['layout']}"
            for name, ours, theirs in comparisons(record):
                print(f"{place}, {name}: torch / fastgan {theirs['median'] / ours['median']:.2f}", flush=True)
            for name, reason in record["red"].items():
                print(f"{place}, {name}: WRONG, no figure: {reason}", flush=True)
                wrong += 1
    content |= {"complete": True, "load_after": os.getloadavg()[0]}
    _write(out, content)
    print(f"{out}: {len(content['cases'])} comparisons, {wrong} wrong results")
    return 1 if wrong else 0


def main(argv: Sequence[str]) -> int:
    """Returns 0, or 1 when a result was wrong. No argument at all means ``run``."""
    args = _parser().parse_args(argv or ["run"])
    if args.command == "report":
        print(markdown(json.loads(args.file.read_text())), end="")
        return 0
    if args.command == "compiled":
        from bench.compiled import main as compiled_main

        return compiled_main(args.batch_size, args.rounds)
    if args.command == "trainer":
        from bench.trainer import main as trainer_main

        return trainer_main(args.model, args.data, args.steps, args.batch_size)
    return _run(args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
