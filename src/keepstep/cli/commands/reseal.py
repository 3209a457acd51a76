"""`keepstep reseal`: show what a person changed in a checkpoint, ask, and take it over."""

from __future__ import annotations

from collections.abc import Iterator

import click

from keepstep.cli.command import command, format_option, reference_argument, run_argument
from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.tables import Cell, Column, Table
from keepstep.cli.drawing.text import count
from keepstep.model import Checkpoint, State
from keepstep.operations.resealing.reseal import Resealing, plan_reseal
from keepstep.operations.resealing.reseal import reseal as carry_out
from keepstep.repository import missing_files
from keepstep.run import Run, way_back
from keepstep.units import format_size


@command(
    "reseal",
    examples=[
        ("keepstep reseal runs/sft 300 --dry-run", "what was changed in step 300, with old and new digests"),
        ("keepstep reseal runs/sft 300", "show it, ask, and take it over"),
        ("keepstep reseal runs/sft best --yes", "from a script that edits the best one"),
        ("keepstep reseal runs/sft gen:7", "one that was moved aside as damaged"),
    ],
)
@run_argument
@reference_argument()
@click.option("--dry-run", is_flag=True, help="Show the changes and take nothing over.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@format_option
def reseal(run: Run, reference: str, dry_run: bool, yes: bool, output: Output) -> None:
    """For a change that was made on purpose: every byte is read, the files that were added, rewritten or removed are
    shown with old and new digests, and then the manifest is written anew. Generation, step and metrics stay; the former
    digests stand in the event log. What no loader could read any more is refused, with exit code 1. Without a terminal
    to ask on, nothing is sealed unless --yes is given. Takes the run's lock.
    """
    run.must_be_managed()
    with output.progress("reading") as progress:
        found = plan_reseal(run, reference, progress.advance)
    if not output.is_json:
        _print(found, output)
    sealed = _carry_out(run, found, output, yes=yes) if (found.any or found.refusals) and not dry_run else None
    if output.is_json:
        output.json({**found.to_json(), "applied": sealed is not None}, rows="rewritten")
    elif sealed is not None:
        _report(run, sealed, output)


def _carry_out(run: Run, found: Resealing, output: Output, *, yes: bool) -> Checkpoint | None:
    if not (yes or found.refusals or output.agrees("Take this over?", nothing="nothing was sealed", way="seal")):
        return None
    with output.progress("sealing") as progress:
        return carry_out(run, found, progress.advance)


def _print(found: Resealing, output: Output) -> None:
    output.line(
        (found.checkpoint.name, "bold"), f" (generation {found.checkpoint.generation}) in {found.checkpoint.path}"
    )
    rows = list(_rows(found))
    if rows:
        columns = (
            Column("File", folds=True, minimum=12, essential=True),
            Column("Change", essential=True),
            Column("Digest: before, now", essential=True),
            Column("Size", "right"),
        )
        output.line()
        output.table(Table(columns, tuple(rows)).informative())
        output.line()
    for left in found.changes.left:
        output.line(("left as it is  ", "yellow"), f"{left.path} {left.why}")
    for text in found.refusals:
        output.line(("refused         ", "bold red"), text)
    if not found.any:
        output.line(
            "Nothing to take over." if found.refusals else "Nothing to take over: every file is as it was sealed."
        )
        return
    after = found.changes.after
    if after.lost:
        output.line((f"It would hold weights only: {missing_files(after.lost)}.", "bold yellow"))
    changes = (len(found.changes.rewritten), len(found.changes.added), len(found.changes.removed))
    words = [
        f"{count(n, 'file')} {what}" for n, what in zip(changes, ("rewritten", "added", "removed"), strict=True) if n
    ]
    output.line((f"{', '.join(words)}: {format_size(after.size_bytes)} afterwards.", "bold"))


def _rows(found: Resealing) -> Iterator[tuple[Cell, ...]]:
    changes = found.changes
    for one in changes.rewritten:
        size = f"{format_size(one.before.size)} -> {format_size(one.after.size)}"
        yield _row(one.path, ("rewritten", "bold yellow"), size, one.before.digest, one.after.digest)
    for file in changes.added:
        what = "added, extra" if file.by else "added"
        yield _row(file.path, (what, "green"), format_size(file.size), "", file.digest)
    for file in changes.removed:
        yield _row(file.path, ("removed", "bold red"), format_size(file.size), file.digest, "")


def _row(path: str, change: tuple[str, str], size: str, before: str, after: str) -> tuple[Cell, ...]:
    digests = ((before or "none", "dim"), (after or "none", ""))
    return (Cell.of(path), Cell.of(*change), Cell(digests, separator=" -> "), Cell.of(size))


def _report(run: Run, sealed: Checkpoint, output: Output) -> None:
    output.line((f"Sealed: {sealed.name} holds as it is now.", "green"))
    if sealed.state is State.QUARANTINED:
        output.line(f"It is still aside. Bring it back: keepstep restore {run.path} {way_back(sealed)}")
