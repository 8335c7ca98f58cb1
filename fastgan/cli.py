"""The command line: ``fastgan train | sample | evaluate | export | verify | info``.

Exit codes: 0 done; 1 training failed (a number is no longer finite, or memory ran out) or a verification did; 2 a wrong
flag, value, path or file; 130 and 143 after Ctrl-C and SIGTERM.
"""

import functools
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import torch
import typer

from fastgan.commands import CommandError, ExitCode, evaluate, export, info, sample, train, verify
from fastgan.data import DataError
from fastgan.evaluation import FidError
from fastgan.training import CheckpointError, NonFiniteError, RunError
from fastgan.version import __version__

# What the train extra brings, by import name.
EXTRA = {
    "PIL": "pillow",
    "matplotlib": "matplotlib",
    "safetensors": "safetensors",
    "sklearn": "scikit-learn",
    "tensorboard": "tensorboard",
    "torchvision": "torchvision",
}


class _Escaped(Exception):
    """Carries an error past typer, which answers Ctrl-C and a closed pipe in its own way."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


def _escaping(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (KeyboardInterrupt, BrokenPipeError) as error:
            raise _Escaped(error) from error

    return call


app = typer.Typer(
    name="fastgan",
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"], "max_content_width": 110},
)
for module, function in (
    (train, train.train),
    (sample, sample.sample),
    (evaluate, evaluate.evaluate),
    (export, export.export),
    (verify, verify.verify),
    (info, info.info),
):
    # \b keeps the lines of the examples as they are
    app.command(epilog="\b\n" + module.EXAMPLES if module.EXAMPLES else None)(_escaping(function))


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fastgan {__version__}")
        raise typer.Exit()


@app.callback()
def main_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Train generative adversarial networks and look at what they make."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (default: that of the process). Returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the name of a file need not be text
    debug = "--debug" in arguments  # before or after the command
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        app(arguments, prog_name="fastgan", standalone_mode=False)
        sys.stdout.flush()
        return 0
    except ExitCode as exit_code:
        return exit_code.code
    except (Exception, KeyboardInterrupt) as raised:
        error = raised.error if isinstance(raised, _Escaped) else raised
        if isinstance(error, BrokenPipeError):  # the reader has had enough, as in `fastgan info | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still buffered has nowhere to go
            return 141  # 128 + SIGPIPE, what a shell shows for programs that the signal ends
        explained = _explain(error)
        if debug or explained is None:
            raise
        message, code = explained
        command = next((name for name in arguments if not name.startswith("-")), "")
        print(" ".join(f"fastgan {command}".split()) + ": " + " ".join(message.split()), file=sys.stderr)
        return code


def _explain(error: BaseException) -> tuple[str, int] | None:
    """One line for the user and the exit code, or None for an error that is a fault of this program."""
    if isinstance(error, (CommandError, CheckpointError, DataError, FidError, RunError)):
        return str(error), 2
    if isinstance(error, NonFiniteError):
        return str(error), 1
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] in EXTRA:
        missing = EXTRA[error.name.partition(".")[0]]
        return f"{missing} is not installed: pip install 'fastgan[train]'", 2
    if isinstance(error, torch.OutOfMemoryError):
        return "out of GPU memory: try smaller batches or images, or --device cpu", 1
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error)):
        return "out of memory: try smaller batches or images", 1
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error), 2
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        # A click exception: click itself, or the copy of it that newer typers carry.
        return f"{error.format_message()} (see --help)", error.exit_code
    return None


if __name__ == "__main__":
    sys.exit(main())
