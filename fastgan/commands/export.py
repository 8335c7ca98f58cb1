"""``fastgan export``: the generator of a run as one .safetensors file."""

from pathlib import Path
from typing import Annotated

import typer

from fastgan.training import load_generator, write_safetensors

from . import CommandError, OverwriteOption, RunArgument, check_new_file

EXAMPLES = """\
Examples:
  fastgan export runs/cgan --out generator.safetensors
  fastgan sample generator.safetensors --out grid.png
"""


def export(
    run: RunArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The .safetensors file to write.")],
    overwrite: OverwriteOption = False,
) -> None:
    """Write the generator to a .safetensors file, which every command takes in place of RUN."""
    if out.suffix != ".safetensors":
        raise CommandError(f"--out {out}: the name of the file must end in .safetensors")
    check_new_file("--out", out, overwrite)
    trained = load_generator(run)
    write_safetensors(out, trained)
    weights = sum(parameter.numel() for parameter in trained.generator.parameters())
    print(f"wrote the generator of step {trained.step}, {weights:,} weights, to {out}")
