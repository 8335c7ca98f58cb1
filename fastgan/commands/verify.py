"""``fastgan verify``: is this installation right on this machine?"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from fastgan.dispatch import BACKENDS

from . import CommandError, DeviceOption, ExitCode, check_device

EXAMPLES = """\
Examples:
  fastgan verify
  fastgan verify --device cuda --backend triton --backend native --quick
"""


def verify(
    device: DeviceOption = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help=f"Only this one of {', '.join(BACKENDS)}, which then must be able to run; may be repeated.",
            autocompletion=lambda: list(BACKENDS),
            show_default=False,
        ),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="About a third of the shapes.")] = False,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write every single result there.", show_default=False)
    ] = None,
) -> None:
    """Check every op on this machine against torch in float64."""
    device = check_device(device)
    for name in backend or ():
        if name not in BACKENDS:
            raise CommandError(f"--backend: must be one of {', '.join(BACKENDS)}, got {name!r}")
    if json is not None and (json.is_dir() or not json.parent.is_dir()):
        raise CommandError(f"--json: cannot write a file {str(json)!r}")
    from fastgan.verify import run

    code = run(torch.device(device), backend, quick, json)
    if code:
        raise ExitCode(code)
