"""One module per command of the command line: HELP, add_arguments(parser), run(args) -> exit code."""

from .arguments import CommandError

__all__ = ["CommandError"]
