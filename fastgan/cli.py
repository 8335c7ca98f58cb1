"""The command line: ``fastgan train | sample | evaluate | verify | info``.

Exit codes: 0 done; 1 training failed (a number is no longer finite, or memory ran out) or a verification did; 2 a wrong
flag, value, path or file; 130 and 143 after Ctrl-C and SIGTERM.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import torch

from fastgan.commands import CommandError, evaluate, sample, train
from fastgan.data import DataError
from fastgan.training import CheckpointError, NonFiniteError, RunError
from fastgan.version import __version__

EXTRA = {"PIL": "pillow", "sklearn": "scikit-learn"}  # what the train extra brings, by import name


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastgan", description="Train generative adversarial networks and look at what they make.")
    parser.add_argument("--version", action="version", version=f"fastgan {__version__}")
    common = _Parser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in (train, sample, evaluate):
        name = module.__name__.rpartition(".")[2]
        subparser = commands.add_parser(name, help=module.HELP, description=module.HELP, parents=[common])
        module.add_arguments(subparser)
        subparser.set_defaults(run=module.run)
    # These two read their own arguments; they are here for the help text.
    commands.add_parser("verify", help="check this installation against the reference", add_help=False)
    commands.add_parser("info", help="show the version, the backends, and why one is missing", add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: that of the process). Returns the exit code."""
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has had enough, as in `fastgan info | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has nowhere to go
        return 141  # 128 + SIGPIPE, what a shell shows for programs that the signal ends
    return code


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["verify"]:
        from fastgan.verify import main as verify_main

        return verify_main(arguments[1:])
    if arguments[:1] == ["info"]:
        from fastgan.info import main as info_main

        return info_main(arguments[1:])
    args = build_parser().parse_args(arguments)
    try:
        return args.run(args)
    except (Exception, KeyboardInterrupt) as error:
        explained = _explain(error)
        if args.debug or explained is None:
            raise
        message, code = explained
        print(f"fastgan {args.command}: {message}", file=sys.stderr)
        return code


def _explain(error: BaseException) -> tuple[str, int] | None:
    """One line for the user and the exit code, or None for an error that is a fault of this program."""
    if isinstance(error, (CommandError, CheckpointError, DataError, RunError)):
        return str(error), 2
    if isinstance(error, NonFiniteError):
        return str(error), 1
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] in EXTRA:
        missing = EXTRA[error.name.partition(".")[0]]
        return f"{missing} is not installed: pip install 'fastgan[train]'", 2
    if isinstance(error, torch.OutOfMemoryError):
        return "out of GPU memory: lower --batch-size", 1
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error), 2
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    return None


if __name__ == "__main__":
    sys.exit(main())
