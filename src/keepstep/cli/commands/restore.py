"""`keepstep restore`: show what would come back, ask, and bring it back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from keepstep.cli.command import Argument, command, complete_reference, format_option, run_argument
from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.tables import Cell, Column, Table
from keepstep.cli.drawing.text import count, in_words
from keepstep.model import Checkpoint
from keepstep.operations.restoring import Aside, CourseBack, Restoration, RunBack, lying_aside, plan_restore
from keepstep.operations.restoring import restore as carry_out
from keepstep.run import Run
from keepstep.units import format_size


@command(
    "restore",
    examples=[
        ("keepstep restore runs/sft", "what could be brought back, and by which words"),
        ("keepstep restore runs/sft gen:7", "the checkpoint of generation 7, and the course that leads to it"),
        ("keepstep restore runs/sft --timeline 1", "all that the first rewind set aside"),
        ("keepstep restore runs/sft previous:1f0c9a2b --dry-run", "what bringing a previous run back would move"),
    ],
)
@run_argument
@click.argument(
    "reference",
    cls=Argument,
    metavar="[REF]",
    required=False,
    explanation="gen:N, a tag, a path, or previous:ID for a whole run; left out: list what lies aside",
    shell_complete=complete_reference,
)
@click.option("--timeline", type=click.IntRange(min=1), metavar="N", help="The newest of an abandoned timeline.")
@click.option("--dry-run", is_flag=True, help="Show what would move, and move nothing.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask.")
@format_option
def restore(*, run: Run, reference: str | None, timeline: int | None, dry_run: bool, yes: bool, output: Output) -> None:
    """A run's directory holds one course. With a checkpoint comes back what leads to it, and what of the run is of
    another course is set aside in its turn: nothing is removed. A resume goes on from the restored course then, and
    what that is is shown first. A checkpoint from quarantine takes its place again where its course is the run's. A
    previous run changes places with the run that is there, with its pins, events and curves.

    Every byte is verified before anything moves; what is damaged stays where it is. Without a terminal to ask on,
    nothing moves unless --yes is given. Takes the run's lock.
    """
    if reference is None and timeline is None:
        _list(run, lying_aside(run), output)
        return
    if reference is not None and timeline is not None:
        raise click.UsageError("Give REF or --timeline N, not both.")
    with output.progress("verifying") as progress:
        found = plan_restore(run, reference, timeline, progress.advance)
    if not output.is_json:
        _print(run, found, output)
    where = None if dry_run else _carry_out(run, found, output, yes=yes)
    if output.is_json:
        output.json({**found.to_json(), "applied": where is not None}, rows="restores")
    elif where is not None:
        _report(found, where, output)


def _carry_out(run: Run, found: Restoration, output: Output, *, yes: bool) -> Path | None:
    if not (yes or output.agrees("Bring this back?", nothing="nothing was moved", way="restore")):
        return None
    return carry_out(run, found)


def _list(run: Run, aside: Aside, output: Output) -> None:
    if output.is_json:
        output.json(aside.to_json(), rows="parts")
        return
    if not aside.parts:
        output.note(f"{run.path} has nothing aside that could be brought back")
    else:
        columns = (
            Column("What", folds=True, essential=True),
            Column("Steps", folds=True, minimum=8),
            Column("Size", "right"),
            Column("Bring it back", essential=True),
        )
        rows = (
            (
                Cell.of(part.what),
                Cell.of(_steps(part.checkpoints)),
                Cell.of(format_size(part.size_bytes)),
                Cell.of(f"keepstep restore {run.path} {part.reference}" if part.reference else ""),
            )
            for part in aside.parts
        )
        output.table(Table(columns, tuple(rows)).informative())
    for path in aside.rests:
        output.note(f"{path}: a rest without a manifest; nothing says what its bytes were, so it can't be brought back")


def _print(run: Run, found: Restoration, output: Output) -> None:
    if isinstance(found, RunBack):
        _print_run(run, found, output)
    else:
        _print_course(found, output)


def _print_course(found: CourseBack, output: Output) -> None:
    what = found.what
    checkpoint = what.checkpoint
    output.line((f"step {checkpoint.step}", "bold"), f" (generation {checkpoint.generation}) in {checkpoint.path}")
    output.line()
    output.table(Table(_COLUMNS, tuple(_rows(found))).informative())
    output.line()
    for verification in found.left:
        output.line(("stays aside  ", "yellow"), f"damaged: {verification.summary()}")
    output.line((_about_resume(found), "bold yellow" if found.changes_course else "bold"))


_COLUMNS = (
    Column("Step", "right", essential=True),
    Column("Generation", "right"),
    Column("Timeline", "right"),
    Column("What becomes of it", essential=True),
    Column("Size", "right"),
)


def _rows(found: CourseBack) -> Iterator[tuple[Cell, ...]]:
    for checkpoint in sorted(found.what.back, key=lambda one: one.generation):
        yield _row(checkpoint, ("comes back, verified", "bold green"))
    for checkpoint in found.what.aside:
        yield _row(checkpoint, (f"is set aside, as timeline {found.what.timeline}", "bold yellow"))


def _row(checkpoint: Checkpoint, what: tuple[str, str]) -> tuple[Cell, ...]:
    return (
        Cell.of(str(checkpoint.step), "bold"),
        Cell.of(str(checkpoint.generation)),
        Cell.of(str(checkpoint.timeline)),
        Cell.of(*what),
        Cell.of(format_size(checkpoint.size_bytes)),
    )


def _about_resume(found: CourseBack) -> str:
    then, now = found.resumes_then, found.resumes_now
    if then is None:
        return "There is nothing to resume from, before and afterwards."
    if not found.changes_course:
        return f"A resume goes on from {_named(then)}, as now."
    return f"A resume goes on from {_named(then)} then" + (f", and no longer from {_named(now)}." if now else ".")


def _named(checkpoint: Checkpoint) -> str:
    return f"step {checkpoint.step} (generation {checkpoint.generation})"


def _print_run(run: Run, found: RunBack, output: Output) -> None:
    size = f"{count(len(found.back), 'checkpoint')}, {format_size(found.size_bytes)}"
    output.line((f"previous run {found.previous.name}", "bold"), f" in {run.path / found.previous.home}: {size}")
    output.line(
        ("comes back   ", "bold green"), f"steps {_steps(found.back)}; with its pins, events and curves; verified"
    )
    for verification in found.damaged:
        output.line(("quarantine   ", "bold red"), f"damaged: {verification.summary()}")
    leaves = f"steps {_steps(found.leaves)}" if found.leaves else "no checkpoint"
    output.line(("is set aside ", "bold yellow"), f"the run that is there, {found.left}: {leaves}")
    then = found.resumes_then
    output.line(
        (f"A resume goes on from {_named(then)} then." if then else "Nothing of it can be resumed from.", "bold")
    )


def _report(found: Restoration, where: Path, output: Output) -> None:
    if isinstance(found, RunBack):
        output.line((f"Restored: {where} holds run {found.previous.run_id} again.", "green"))
        output.line(f"The run that was there: keepstep restore {where} previous:{found.left}")
        return
    back, aside = found.what.back, found.what.aside
    text = f"Restored: {count(len(back), 'checkpoint')}, {format_size(found.size_bytes)}"
    text += (
        f"; {len(aside)} set aside: keepstep restore {where.parent} --timeline {found.what.timeline}" if aside else ""
    )
    output.line((f"{text}.", "green"))


def _steps(checkpoints: Sequence[Checkpoint]) -> str:
    return in_words([checkpoint.step for checkpoint in checkpoints])
