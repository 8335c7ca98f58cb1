"""``python -m bench [run | report | compare | bars | audit | host | compiled | trainer]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.cases import GROUPS
from bench.providers import COMPILED


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = commands.add_parser("run", help="measure and write a result file")
    run.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    run.add_argument("--quick", action="store_true", help="a fifth of the time per case; batch 32 on a CPU")
    run.add_argument("--out", type=Path, metavar="FILE", help="default: bench/results/, named by the machine")
    run.add_argument("--only", metavar="TEXT", default="", help="cases whose name contains TEXT")
    run.add_argument("--group", nargs="+", choices=GROUPS, default=(), metavar="GROUP", help="; ".join(GROUPS))
    run.add_argument(
        "--batch", nargs="+", type=int, default=(), metavar="N", help="of layers, networks, steps (default: 128)"
    )
    run.add_argument(
        "--threads", nargs="+", type=int, default=(), metavar="N", help="of the CPU (default: what torch chooses)"
    )
    run.add_argument(
        "--minutes",
        type=float,
        default=float("inf"),
        metavar="N",
        help="stop after that time; what matters first is measured first",
    )
    run.add_argument("--graphs", action="store_true", help="time CUDA graphs too: kernels without the host's share")
    run.add_argument(
        "--compile",
        nargs="*",
        choices=tuple(COMPILED),
        metavar="MODE",
        help=f"torch.compile too, up to a minute more per case: {', '.join(COMPILED)} (no mode: default)",
    )
    run.add_argument("--list", action="store_true", help="say what would be measured, and measure nothing")
    run.add_argument("--no-memory", action="store_true", help="leave out the steps' peak memory (CPU)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Compare fastgan with torch, case by case.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_run(commands)
    report = commands.add_parser("report", help="print a result file as Markdown")
    report.add_argument("file", type=Path, nargs="?")
    report.add_argument("--plots", type=Path, metavar="FOLDER", help="write PNGs there: ratios and roofline")
    report.add_argument("--readme", action="store_true", help="rewrite the README's table from bench/results/ instead")
    compare = commands.add_parser("compare", help="what got slower from one result file to another; then exit code 1")
    compare.add_argument("first", type=Path, metavar="A")
    compare.add_argument("second", type=Path, metavar="B")
    compare.add_argument("--threshold", type=float, default=0.1, metavar="SHARE", help="default: %(default)s")
    bars = commands.add_parser("bars", help="what the CPU kernels must reach, and whether they do")
    bars.add_argument("files", type=Path, nargs="+", metavar="FILE")
    audit = commands.add_parser(
        "audit", help="what the Triton convolutions, or the CUDA kernels, would cost a GPU; needs none"
    )
    audit.add_argument("--check", action="store_true", help="compare with the committed table; exit code 1 if worse")
    audit.add_argument(
        "--arch", nargs="+", type=int, choices=(80, 90, 100), default=(), metavar="SM", help="default: all"
    )
    audit.add_argument("--only", metavar="TEXT", default="", help="cases, or kernels, whose name contains TEXT")
    audit.add_argument("--uncounted", action="store_true", help="compile only: minutes less")
    audit.add_argument("--nvcc", action="store_true", help="of the CUDA kernels instead, which nvcc compiles")
    host = commands.add_parser("host", help="from a Python call to the launches of its Triton kernels; needs no GPU")
    host.add_argument("--rounds", type=int, default=15, metavar="N", help="default: %(default)s")
    host.add_argument("--calls", type=int, default=100, metavar="N", help="a round's; default: %(default)s")
    compiled = commands.add_parser("compiled", help="our networks under torch.compile beside themselves, on a CPU")
    compiled.add_argument("--batch-size", type=int, default=32, metavar="N", help="default: %(default)s")
    compiled.add_argument("--rounds", type=int, default=30, metavar="N", help="default: %(default)s")
    trainer = commands.add_parser("trainer", help="what the trainer costs beside networks and optimizers, on a CPU")
    trainer.add_argument("--model", default="cgan", help="default: %(default)s")
    trainer.add_argument("--data", default="digits", help="default: %(default)s")
    trainer.add_argument("--steps", type=int, default=500, metavar="N", help="default: %(default)s")
    trainer.add_argument("--batch-size", type=int, default=128, metavar="N", help="default: %(default)s")
    return parser


def _run(args: argparse.Namespace) -> int:
    from bench.plan import Options, listing
    from bench.run import run

    options = Options(
        device=torch.device(args.device),
        quick=args.quick,
        out=args.out,
        only=args.only,
        groups=args.group,
        batches=args.batch,
        threads=args.threads,
        minutes=args.minutes,
        graphs=args.graphs,
        compiled=() if args.compile is None else tuple(dict.fromkeys(args.compile)) or ("default",),
        memory=not args.no_memory,
    )
    if args.list:
        print(listing(options))
        return 0 if options.cases() else 1
    return run(options)


def _report(args: argparse.Namespace) -> int:
    from bench import plots, readme, report, results

    if args.readme:
        readme.rewrite()
        return 0
    content = results.read(args.file)
    print(report.markdown(content), end="")
    if args.plots is not None:
        for path in plots.plots(content, args.plots):
            print(f"wrote {path}", file=sys.stderr)
    return 0


def _compare(args: argparse.Namespace) -> int:
    from bench import compare, results

    first, second = results.read(args.first), results.read(args.second)
    found = compare.compare(first, second, args.threshold)
    print(compare.text(found, first, second), end="")
    return 1 if found.regressed else 0


def main(argv: Sequence[str]) -> int:
    """Returns 0, or 1 when a result was wrong or got slower. No argument at all means ``run``."""
    parser = _parser()
    args = parser.parse_args(argv or ["run"])
    if args.command == "report":
        if not args.readme and args.file is None:
            parser.error("report: FILE or --readme")
        return _report(args)
    if args.command == "compare":
        return _compare(args)
    if args.command == "bars":
        from bench import bars, results

        print(bars.markdown(results.records_of(args.files)), end="")
        return 0
    if args.command == "audit":
        if args.nvcc:
            from bench.nvcc_table import main as audit_main
        else:
            from bench.audit import main as audit_main

        return audit_main(args.check, args.arch, args.only, args.uncounted)
    if args.command == "host":
        from bench import host

        print(host.text(host.measure(args.rounds, args.calls)))
        return 0
    if args.command == "compiled":
        from bench.compiled import main as compiled_main

        return compiled_main(args.batch_size, args.rounds)
    if args.command == "trainer":
        from bench.trainer import main as trainer_main

        return trainer_main(args.model, args.data, args.steps, args.batch_size)
    return _run(args)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        sys.exit(130)
