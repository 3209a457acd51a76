"""`keepstep pin`, `unpin` and `tag`: what no policy removes, and names for checkpoints."""

from __future__ import annotations

import click

from keepstep.cli.command import Argument, command, format_option, reference_argument, run_argument
from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.text import count
from keepstep.operations import pinning
from keepstep.operations.pinning import Pinning
from keepstep.run import Run


@command("pin", examples=[("keepstep pin runs/sft 300", "step 300 stays until it is unpinned")])
@run_argument
@reference_argument()
@format_option
def pin(run: Run, reference: str, output: Output) -> None:
    """Works beside a running training."""
    done = pinning.pin(run, reference)
    _say(output, done, "is pinned: no policy removes it" if done.changed else "was pinned already")


@command("unpin", examples=[("keepstep unpin runs/sft 300", "the policy decides on step 300 again")])
@run_argument
@reference_argument()
@format_option
def unpin(run: Run, reference: str, output: Output) -> None:
    """Works beside a running training."""
    done = pinning.unpin(run, reference)
    tags = done.before.names(done.checkpoint.generation)
    lost = f"; {count(len(tags), 'tag')} dropped: {', '.join(tags)}" if tags else ""
    _say(output, done, f"is unpinned: the policy decides{lost}" if done.changed else "was not pinned")


@command(
    "tag",
    examples=[
        ("keepstep tag runs/sft best release-1", "name the best checkpoint of today"),
        ("keepstep show runs/sft release-1", "and use the name"),
    ],
)
@run_argument
@reference_argument()
@click.argument("name", cls=Argument, metavar="NAME", explanation="letters, digits, '.', '_' and '-'")
@format_option
def tag(run: Run, reference: str, name: str, output: Output) -> None:
    """The name moves when another checkpoint had it. Works beside a running training."""
    done = pinning.tag(run, reference, name)
    moved = done.changed and name in done.before.tags
    what = f"is tagged {name!r}" + (", which named another one before" if moved else "")
    _say(output, done, what if done.changed else f"had the tag {name!r} already")


def _say(output: Output, done: Pinning, what: str) -> None:
    if output.is_json:
        output.json(done.to_json())
    else:
        output.line((f"step {done.checkpoint.step}", "bold"), f" {what}")
