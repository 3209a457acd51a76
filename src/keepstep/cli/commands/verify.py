"""`keepstep verify`: every byte against the manifests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import click

from keepstep.cli.command import command, format_option
from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.text import count
from keepstep.cli.many import runs_argument
from keepstep.operations.checking import Checked, candidates, check
from keepstep.repository import missing_files
from keepstep.run import Run
from keepstep.stock import is_unread
from keepstep.stores import Entry
from keepstep.units import format_size

PROBLEMS_FOUND = 1
"""Exit code where a checkpoint does not hold."""
MOST_ADDED = 8
"""Added files of one checkpoint that are named; the others are counted."""


@command(
    "verify",
    examples=[
        ("keepstep verify runs/sft", "all checkpoints; exit code 1 when one is damaged"),
        ("keepstep verify runs/sft latest", "the newest alone"),
        ("keepstep verify runs/sft --quarantine", "move damaged ones to .keepstep/quarantine"),
        ("keepstep verify s3://bucket/team/sft latest", "read a mirror's newest back"),
        ("keepstep verify --root runs --ref best", "the best of each run below a directory"),
    ],
)
@runs_argument(reference="optional")
@click.option("--quarantine", is_flag=True, help="Move damaged checkpoints aside; takes the run's lock.")
@format_option
@click.pass_context
def verify(ctx: click.Context, run: Run, reference: str | None, quarantine: bool, output: Output) -> None:
    """Reads all files of the checkpoints and compares names, sizes and digests. The outcome goes to the event log.
    What others put beside them and no loader reads is listed, and is no damage.
    """
    with run.writing("moving what is damaged aside") if quarantine else nullcontext():
        outcomes = _check(run, reference, quarantine, output)
    if output.is_json:
        output.json([outcome.to_json() for outcome in outcomes])
    else:
        _print(run, outcomes, output, quarantine=quarantine, reference=reference)
    if not all(outcome.ok for outcome in outcomes):
        ctx.exit(PROBLEMS_FOUND)


def _check(run: Run, reference: str | None, quarantine: bool, output: Output) -> tuple[Checked, ...]:
    found = candidates(run, reference)
    with output.progress("verifying", found.size_bytes) as progress:
        return check(
            run,
            found,
            quarantine=quarantine,
            on_start=lambda checkpoint: progress.describe(f"step {checkpoint.step}"),
            on_bytes=progress.advance,
        )


def _print(run: Run, outcomes: tuple[Checked, ...], output: Output, *, quarantine: bool, reference: str | None) -> None:
    width = max((len(outcome.path.name) for outcome in outcomes), default=0)
    for outcome in outcomes:
        _print_one(outcome, output, width, ("ok", "damaged") if run.managed else ("whole", "torn"))
    bad = [outcome for outcome in outcomes if not outcome.ok]
    if outcomes:
        output.line()
    if not outcomes:
        output.note(f"{run.address} has no checkpoint yet")
    elif not bad:
        size = sum(outcome.verification.read_bytes for outcome in outcomes if outcome.verification)
        stripped = sum(bool(outcome.lost) for outcome in outcomes)
        text = f"{count(len(outcomes), 'checkpoint')} verified: every byte of {format_size(size)} is as written."
        if not run.managed:
            text = f"{count(len(outcomes), 'checkpoint')} ({format_size(size)}): {run.proof}."
        output.line(f"{text} Of {stripped} only the weights are left." if stripped else text)
    else:
        word = "damaged" if run.managed else "torn"
        if not run.managed and all(is_unread(outcome.problems) for outcome in bad):
            word = "can't be read"
        output.line((f"{len(bad)} of {count(len(outcomes), 'checkpoint')} {word}.", "bold red"))
        if run.remote:
            output.line(
                f"Remove there what is damaged, and the next sync sends it anew: "
                f"keepstep mirror verify {run.address} --drop"
            )
        elif run.managed and not quarantine and any(outcome.checkpoint for outcome in bad):
            output.line(f"Move aside what is damaged: keepstep verify {run.path} --quarantine")
            output.line(next(outcome.verification.way_out() for outcome in bad if outcome.verification))
        if reference is not None or any(o.verification and o.verification.resumable for o in outcomes):
            output.line(f"Find a safe one: keepstep resume {run.address}")
        else:
            output.line("None of them can be resumed from: put back what is damaged from a copy, or begin anew.")


def _print_one(outcome: Checked, output: Output, width: int, words: tuple[str, str]) -> None:
    bad = "unread" if is_unread(outcome.problems) and words[1] == "torn" else words[1]
    mark = (f"{words[0]:<9}", "green") if outcome.ok else (f"{bad:<9}", "bold red")
    checkpoint = outcome.checkpoint
    size = f"  {format_size(checkpoint.size_bytes)} in {count(len(checkpoint.files), 'file')}" if checkpoint else ""
    output.line(mark, (f"{outcome.path.name:<{width}}", "bold" if outcome.ok else "bold red"), (size, "dim"))
    for problem in outcome.problems:
        output.line("         ", str(problem))
    if outcome.lost:
        output.line("         ", (f"holds weights only: {missing_files(outcome.lost)}", "yellow"))
    for path in sorted(set(outcome.missing) - set(outcome.lost)):
        output.line("         ", f"{path} is gone; no loader reads it")
    for text in _beside(outcome.added):
        output.line("         ", (text, "dim"))
    if outcome.moved_to is not None:
        output.line("         ", (f"moved to {outcome.moved_to}", "yellow"))
    elif checkpoint is None:
        output.line("         ", ("left where it is: nothing proves that it is this run's", "yellow"))


def _beside(added: tuple[Entry, ...]) -> Iterator[str]:
    """What others put beside a checkpoint's files, in words."""
    for entry in added[:MOST_ADDED]:
        size = format_size(entry.size) if entry.kind == "file" else f"a {entry.kind}, not followed"
        yield f"added: {entry.path} ({size}); no loader reads it"
    if len(added) > MOST_ADDED:
        size = format_size(sum(entry.size for entry in added[MOST_ADDED:]))
        yield f"added: {count(len(added) - MOST_ADDED, 'more file')} ({size})"
