"""``fastgan info``: versions, devices, what is compiled, and which backend runs each op and why."""

from typing import Annotated

import typer

EXAMPLES = ""


def info(json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """Show the versions, the devices, and which backend runs each op and why."""
    from fastgan.info import run

    run(json)
