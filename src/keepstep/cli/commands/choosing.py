"""`keepstep resume` and `keepstep best`: one verified path on stdout, the reasons on stderr."""

from __future__ import annotations

import os
import sys

import click

from keepstep.cli.command import REFERENCES, command, complete_reference, format_option, run_argument
from keepstep.cli.commands.several import best_of_runs
from keepstep.cli.drawing.render import Output
from keepstep.cli.many import runs_argument
from keepstep.operations.checking import best_that_holds, safe_to_resume, unreadable
from keepstep.operations.seeing.certainty import certainty_of_best
from keepstep.run import ResumePoint, Run
from keepstep.stock import is_unread


@command(
    "resume",
    examples=[
        ("keepstep resume runs/sft", "the newest checkpoint whose bytes hold"),
        ('python train.py --resume "$(keepstep resume runs/sft)"', "go on from it, in a job script"),
        ("keepstep resume s3://bucket/team/sft", "which one a pull from a mirror would bring, and how"),
        ("keepstep resume runs/sft --ref step:300", "step 300, if it holds"),
    ],
)
@run_argument
@click.option(
    "--ref",
    "reference",
    metavar="REF",
    default="latest",
    help=f"Exactly this one: {REFERENCES}.",
    shell_complete=complete_reference,
)
@format_option
def resume(run: Run, reference: str, output: Output) -> None:
    """Every byte is verified; damaged ones are passed over, and said on stderr. Exit code 3 when none is left.

    Of a mirror (s3://bucket/path) it is where its plain files lie there: that they are there is told by names and
    sizes, no byte travels, and how to pull it is said on stderr.
    """
    with output.progress("verifying") as progress:
        point = safe_to_resume(run, reference, progress.advance)
    _answer(run, point, output)


@command(
    "best",
    examples=[
        ("keepstep best runs/sft", "the best checkpoint whose bytes hold"),
        ('cp -r "$(keepstep best runs/sft)" release/', "use it in a script"),
        ("keepstep best --root runs", "a table: the best of each run below, as it was logged"),
    ],
)
@runs_argument(together=best_of_runs)
@format_option
def best(run: Run, output: Output) -> None:
    """Every byte is verified; a damaged one is passed over for the next best: its path is printed all the same, what
    was passed over is said on stderr, and the exit code is 1. Exit code 3 when there is none. With 8 evaluations or
    more, how far the best leads, and which others can't be told from it by the noise of the metric. Of a mirror no byte
    travels, as for keepstep resume.

    Of several runs a table of what was logged, the best value first where they share a metric: no byte is verified,
    and whether the newest can be resumed from is told by its manifest, or, where there is none, by the names of its
    files.
    """
    with output.progress("verifying") as progress:
        point = best_that_holds(run, progress.advance)
    sure = certainty_of_best(run, point.checkpoint)
    _answer(run, point, output, certainty=sure.to_json() if sure else None)
    if sure is not None:
        output.note(sure.describe())
    if point.passed_over:
        output.note("exit code 1: the best by the metric does not hold, and the path is that of the next")
        raise click.exceptions.Exit(1)


def _answer(run: Run, point: ResumePoint, output: Output, **more: object) -> None:
    for checked in unreadable(run):
        output.note(f"passed over: {checked.path.name}: {checked.problems[0]}")
    for verification in point.passed_over:
        output.note(f"passed over: {verification.summary()}")
    if point.passed_over and run.managed and not run.remote:
        output.note(point.passed_over[0].way_out())
    if not run.managed and any(is_unread(verification.problems) for verification in point.passed_over):
        output.note("what can't be read may be whole, and newer: have it opened before you go on from an older one")
    output.note(point.reason)
    if way := run.way_here(point.checkpoint):
        output.note(f"bring it here: {way}")
    if output.is_json:
        output.json(_to_json(run, point) | more)
    else:
        # Raw bytes: scripts use this path, whatever its name is.
        sys.stdout.flush()
        click.echo(os.fsencode(run.place_of(point.checkpoint)))


def _to_json(run: Run, point: ResumePoint) -> dict[str, object]:
    checkpoint = point.checkpoint
    return {
        "step": checkpoint.step,
        "generation": checkpoint.generation,
        "path": run.place_of(checkpoint),
        "reason": point.reason,
        **({"pull": way} if (way := run.way_here(checkpoint)) else {}),
        "passed_over": [
            {"step": v.checkpoint.step, "generation": v.checkpoint.generation, "problems": [str(p) for p in v.problems]}
            for v in point.passed_over
        ],
    }
