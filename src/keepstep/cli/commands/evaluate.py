"""`keepstep evaluate`: a command for each checkpoint, whose metrics are recorded."""

from __future__ import annotations

import shlex
from contextlib import closing
from typing import Any

import click

from keepstep.cli.command import CHILD, Argument, command, complete_reference, format_option, run_argument
from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.text import count
from keepstep.model import Checkpoint
from keepstep.operations.evaluating import evaluate as evaluating
from keepstep.operations.evaluating.child import PLACE
from keepstep.run import Run
from keepstep.units import format_duration, format_number, parse_duration

FAILED = 1
"""Exit code where the command failed for a checkpoint."""


@command(
    "evaluate",
    examples=[
        (
            "keepstep evaluate runs/sft --pending -- python eval.py {}",
            "those that have no value of the run's metric yet",
        ),
        ("keepstep evaluate runs/sft best 300 --jobs 2 -- ./bench.sh {}", "these two, at once"),
    ],
    takes_command="CMD {}",
)
@run_argument
@click.argument(
    "references", cls=Argument, metavar="[REF]...", nargs=-1, shell_complete=complete_reference,
    explanation="checkpoints; all when left out",
)  # fmt: skip
@click.option("--pending", is_flag=True, help="Only those without a value of the run's metric.")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Commands that run at once.")
@click.option("--timeout", metavar="TIME", help="End a command that takes longer: 30m, 2h.")
@click.option("--dry-run", is_flag=True, help="Say what would be run.")
@format_option
@click.pass_context
def evaluate(
    ctx: click.Context,
    run: Run,
    *,
    references: tuple[str, ...],
    pending: bool,
    jobs: int,
    timeout: str | None,
    dry_run: bool,
    output: Output,
) -> None:
    """Behind -- stands the command; {} is the checkpoint's directory. The last line of its output that is a JSON object
    has the metrics: {"eval_accuracy": 0.71}. They are recorded as metrics that came late, and rank the checkpoint; a
    training that runs goes on, and what is being evaluated is not removed meanwhile. A command that fails is said with
    its last lines, and the others go on: exit code 1. With --format json a line for each, as soon as it is done.
    """
    words = ctx.meta.get(CHILD, [])
    evaluating.check_command(words)
    seconds = None if timeout is None else parse_duration(timeout, "--timeout")
    checkpoints = evaluating.to_evaluate(run, references, pending=pending)
    if not checkpoints:
        output.note(
            "nothing is to be evaluated: " + ("all have their metrics" if pending else "there is no checkpoint")
        )
        return
    if dry_run:
        for checkpoint in checkpoints:
            line = shlex.join(word.replace(PLACE, str(checkpoint.path)) for word in words)
            _say(output, line, {"step": checkpoint.step, "generation": checkpoint.generation, "command": line})
        return

    def started(checkpoint: Checkpoint) -> None:
        if not output.is_json:
            output.note(f"{checkpoint.name}: begun")

    failed = 0
    work = evaluating.evaluate(run, checkpoints, words, jobs=jobs, timeout=seconds, on_start=started)
    with closing(work) as outcomes:
        for place, done in enumerate(outcomes, start=1):
            failed += not done.ok
            _say(output, f"[{place} of {len(checkpoints)}] {_line(done)}", done.to_json())
            _hint(run, done, output)
    if failed:
        output.note(f"{count(failed, 'evaluation')} of {len(checkpoints)} failed")
        ctx.exit(FAILED)


def _say(output: Output, line: str, plain: dict[str, Any]) -> None:
    if output.is_json:
        output.json_line(plain)
    else:
        output.line(line)


def _line(done: evaluating.Evaluated) -> str:
    took = format_duration(done.ended.seconds)
    if done.ok:
        values = ", ".join(f"{name} {format_number(value)}" for name, value in done.ended.metrics.items())
        return f"{done.checkpoint.name}: {values} ({took})"
    return f"{done.checkpoint.name}: FAILED, {done.ended.problem} ({took})"


def _hint(run: Run, done: evaluating.Evaluated, output: Output) -> None:
    if output.is_json:
        return
    if not done.ok:
        for line in done.ended.last_lines:
            output.note(f"    {line}")
    metric = run.policy.metric
    if done.ok and metric is not None and metric.value(done.ended.metrics) is None:
        output.note(f"    {metric.name}, by which the run ranks, is not among them")
