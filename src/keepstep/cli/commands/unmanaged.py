"""The question before anything that others wrote is removed: the name of the directory, typed by a person."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.text import clean
from keepstep.run import Run

F = TypeVar("F", bound=Callable[..., Any])


def unmanaged_option(function: F) -> F:
    """`--unmanaged`."""
    return click.option(
        "--unmanaged",
        is_flag=True,
        help="Also in a run that keepstep does not manage: asks for the directory's name, on a terminal alone.",
    )(function)


def type_name(run: Run, what: str, output: Output) -> bool:
    """True where a person typed the name of the run's directory; without a terminal nobody can."""
    if not output.can_ask:
        output.note(f"dry run: nothing in {run.path} was changed. --unmanaged asks on a terminal; in a script adopt it")
        return False
    name = run.path.resolve().name
    click.echo(clean(f"{run.path} is not managed: no digests, and nothing can be brought back. This {what[0].lower()}"
                     f"{what[1:]}."), err=True)  # fmt: skip
    if (
        click.prompt(f"Type the directory's name ({clean(name)}) to go on", default="", show_default=False, err=True)
        == name
    ):
        return True
    output.note("that is another name: nothing was changed")
    return False
