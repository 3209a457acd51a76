"""The command `keepstep`: a group of lazily imported commands."""

from __future__ import annotations

import click

from keepstep.cli.group import LazyGroup
from keepstep.cli.registry import COMMANDS
from keepstep.version import __version__

_HELP = """Checkpoint management for fine-tuning: what is saved, what is kept and why, what is safe to resume from.

RUN is the output_dir of a training. Exit codes: 0 fine, 1 a check failed, 2 wrong usage, 3 no such run or
checkpoint, 4 damaged, 5 in use by another process, 6 directory already used, 7 resume refused, 8 storage,
9 written by a newer keepstep, 11 nobody trains there, 130 interrupted.
"""


@click.group(
    cls=LazyGroup,
    entries=COMMANDS,
    help=_HELP,
    epilog="Help on a command, with examples: keepstep COMMAND --help",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="keepstep", message="%(prog)s %(version)s")
def main() -> None:
    """The command line's entry point."""
