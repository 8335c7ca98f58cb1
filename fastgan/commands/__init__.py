"""One module per command of the command line; each holds the function that typer calls. What they share is here."""

import contextlib
from pathlib import Path
from typing import Annotated

import torch
import typer


class CommandError(Exception):
    """A command that cannot be carried out as asked. The message is one line and says what to do."""


class ExitCode(Exception):
    """The command is over, with this exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def say(line: str) -> None:
    """Print ``line``. Nobody may be reading any more, as after ``| head``: no reason to end what takes long."""
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


LARGEST_SEED = 2**63 - 1

RunArgument = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A folder that 'fastgan train' wrote, or a file of 'fastgan export'."),
]
SeedOption = Annotated[int, typer.Option(metavar="N", min=0, max=LARGEST_SEED, help="Of the noise.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
DataDirOption = Annotated[Path | None, typer.Option(metavar="DIR", help="Where the dataset's files are.")]


def complete_device() -> list[str]:
    """For shell completion: the devices of this machine."""
    return ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]


DeviceOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="cpu, cuda or cuda:N. [default: a GPU if there is one]",
        autocompletion=complete_device,
        show_default=False,
    ),
]


def check_device(name: str | None) -> str:
    """The device ``name``: cpu, cuda, cuda:1; a GPU if there is one for None.

    Raises CommandError for a name that is none, and for a device that this torch does not see.
    """
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise CommandError(f"--device: must be cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise CommandError(f"--device: {name} is not there: this torch sees {torch.cuda.device_count()} CUDA GPUs")
    return name


def check_data_dir(folder: Path | None) -> None:
    """Raise CommandError unless ``folder`` is one, or None."""
    if folder is not None and not folder.is_dir():
        raise CommandError(f"--data-dir {folder}: no such folder")


def check_new_file(option: str, path: Path, overwrite: bool) -> None:
    """Raise CommandError unless a file can be written to ``path``, which ``option`` gave."""
    if path.is_dir():
        raise CommandError(f"{option} {path} is a folder: name a file")
    if not path.parent.is_dir():
        raise CommandError(f"{option} {path}: there is no folder {path.parent}")
    if path.exists() and not overwrite:
        raise CommandError(f"{path} exists: choose another {option}, or --overwrite to replace it")
