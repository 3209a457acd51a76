"""`keepstep simulate`: what a policy leaves on disk, step by step, and after a crash."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import click

from keepstep.cli.command import command, format_option
from keepstep.cli.drawing.plotting import columns as draw_columns
from keepstep.cli.drawing.plotting import knows_blocks
from keepstep.cli.drawing.quantities import PARAMETERS, SIZE, policy_of, schedule_options
from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.tables import Cell, Column, Span, Table
from keepstep.cli.drawing.text import count
from keepstep.errors import SettingsError
from keepstep.model import Checkpoint, Kind
from keepstep.operations.planning.decoder import decoder
from keepstep.operations.planning.optimizers import optimizer_named
from keepstep.operations.planning.sizes import measure
from keepstep.operations.simulation.curves import Curve, make_curve
from keepstep.operations.simulation.outcome import Outcome, outcome
from keepstep.operations.simulation.replay import Moment, Replay, replay
from keepstep.operations.simulation.schedule import Schedule
from keepstep.retention import Metric, Mode, format_spec
from keepstep.units import align_numbers, format_size

_HEIGHT, _MARGIN, _WIDEST = 8, 12, 120


@command(
    "simulate",
    examples=[
        ("keepstep simulate --steps 10000 --save-every 500 --eval-every 500 --limit 3 --params 13B --crash-at 3000",
         "what is on disk after the crash, and why one resumes from 3000 and deploys 2000"),
        ("keepstep simulate --steps 10000 --save-every 500 --eval-every 250 --keep best:3,latest:2 --metric noisy",
         "new bests between two saves are saved as well"),
        ("keepstep simulate --steps 900 --save-every 100 --eval-every 100 --limit 2 --metric curve.csv --png disk.png",
         "the metric of an earlier training, and a picture"),
    ],
)  # fmt: skip
@schedule_options(required=True)
@click.option(
    "--metric", "kind", metavar="CURVE", help="A CSV file with step and value, u-shape (the default), or noisy."
)
@click.option("--mode", type=click.Choice(["min", "max"]), help="Whether a lower or a higher value is better.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the noise of the noisy curve.")
@click.option("--crash-at", type=click.IntRange(min=1), help="Stop after this step, and say what to do.")
@click.option("--params", type=PARAMETERS, help="Parameters of the model, trained in full in bf16 by AdamW.")
@click.option("--size", type=SIZE, help="Bytes of one checkpoint, in place of --params.")
@click.option("--png", type=click.Path(dir_okay=False, path_type=Path), help="Draw the disk use into this file.")
@format_option
def simulate(*, output: Output, kind: str | None, mode: Mode | None, png: Path | None, **options: Any) -> None:
    """The rules are the real ones, and so is what they say of each checkpoint; only the training is made up. A step
    that is a new best is saved even when no save is due, as an attached trainer does it where a best is
    asked for.
    """
    schedule = Schedule(options["steps"], options["save_every"], options["eval_every"])
    curve = _curve(kind, mode, schedule, options["seed"])
    metric = Metric.of(curve.name, mode) if curve else None
    policy = policy_of(options["keep"], options["limit"], metric)
    if (options["crash_at"] or 1) > schedule.steps:
        raise click.UsageError(f"--crash-at is beyond the last step, {schedule.steps}.")
    size, weights = _sizes(options["params"], options["size"])
    replayed = replay(
        policy,
        schedule,
        curve.values if curve else {},
        size=size,
        weights=weights,
        seconds_per_step=options["step_time"] or 1.0,
        until=options["crash_at"],
    )
    if png is not None:
        from keepstep.cli.drawing.picture import draw

        draw(replayed, png)
    end = outcome(replayed)
    if output.is_json:
        output.json(_to_json(replayed, end), rows="saves")
        return
    _warn(curve, schedule, output)
    _print(replayed, output)
    _print_end(replayed, end, output, crashed=options["crash_at"] is not None)
    if png is not None:
        output.note(f"drawn: {png}")


def _curve(kind: str | None, mode: Mode | None, schedule: Schedule, seed: int) -> Curve | None:
    if schedule.eval_every is None:
        if kind is not None or mode is not None:
            raise click.UsageError("--metric and --mode need --eval-every: nothing is evaluated without it.")
        return None
    return make_curve(kind or "u-shape", schedule.evaluations, schedule.steps, seed)


def _sizes(params: int | None, size: int | None) -> tuple[int, int]:
    """Bytes of one checkpoint, and of its weights: a third, as with AdamW, where nobody says more."""
    if params is not None and size is not None:
        raise click.UsageError("--params and --size are two ways to say the same: give one.")
    if params is not None:
        sizes = measure(decoder(params, "bf16"), optimizer_named("adamw"))
        return sizes.total, sizes.weights
    return size or 0, (size or 0) // 3


def _warn(curve: Curve | None, schedule: Schedule, output: Output) -> None:
    if curve is None:
        output.note("nothing is evaluated (no --eval-every), so no checkpoint can be called the best")
        return
    missing = [step for step in schedule.evaluations if step not in curve.values]
    if len(missing) == len(schedule.evaluations):
        raise SettingsError(
            f"the curve has no value at any evaluated step ({missing[0]}, ...)",
            hint="Its steps and --eval-every differ.",
        )
    if missing:
        evaluated = count(len(schedule.evaluations), "evaluation")
        output.note(f"the curve has no value at {len(missing)} of {evaluated}; those are not ranked")


def _print(replayed: Replay, output: Output) -> None:
    policy = replayed.policy
    output.line((format_spec(policy.rules), "bold"), f" keeps {policy.describe()}")
    output.line()
    if replayed.moments:
        output.table(_table(replayed))
        if any(moment.thinned for moment in replayed.moments):
            output.line("w: thinned, its weights are left")
        output.line()
        _print_plot(replayed, output)


def _table(replayed: Replay) -> Table:
    metric, sized = replayed.policy.metric, bool(replayed.moments[0].checkpoint.size_bytes)
    columns = (
        Column("Step", "right", essential=True),
        Column("Saved", telling=True),
        Column(metric.name if metric else "Metric", "right"),
        Column("On disk", folds=True, minimum=20, essential=True),
        Column("Removed, and why", folds=True, essential=True),
        Column("Size", "right"),
        Column("During the save", "right"),
    )
    found = [metric.value(moment.checkpoint.metrics) if metric else None for moment in replayed.moments]
    values = align_numbers(found)
    rows = (_cells(moment, value, sized) for moment, value in zip(replayed.moments, values, strict=True))
    return Table(columns, tuple(rows)).informative()


def _cells(moment: Moment, value: str, sized: bool) -> tuple[Cell, ...]:
    removed: tuple[Span, ...] = tuple((f"{c.step}: {reason}", "yellow") for c, reason in moment.removed)
    thinned: tuple[Span, ...] = tuple((f"{c.step}: thinned, {reason}", "cyan") for c, reason in moment.thinned)
    return (
        Cell.of(str(moment.checkpoint.step), "bold"),
        Cell.of(moment.occasion.value),
        Cell.of(value),
        Cell.of(_steps(moment.kept)),
        Cell((*removed, *thinned)),
        Cell.of(_amount(moment.kept, sized) if sized else ""),
        Cell.of(_amount(moment.most, sized)),
    )


def _steps(checkpoints: tuple[Checkpoint, ...]) -> str:
    """Their steps, the middle of a long list left out; with a w those of which the weights are left."""
    steps = [f"{c.step}{'w' if c.kind is Kind.WEIGHTS else ''}" for c in checkpoints]
    if len(steps) > 12:
        steps = [*steps[:4], f"({len(steps) - 8} more)", *steps[-4:]]
    return " ".join(steps)


def _amount(checkpoints: tuple[Checkpoint, ...], sized: bool) -> str:
    return format_size(_bytes(checkpoints)) if sized else count(len(checkpoints), "checkpoint")


def _bytes(checkpoints: tuple[Checkpoint, ...]) -> int:
    return sum(checkpoint.size_bytes for checkpoint in checkpoints)


def _print_plot(replayed: Replay, output: Output) -> None:
    """Disk use over the saves: what stays is filled, what a save needs for a moment is shaded."""
    width = min(shutil.get_terminal_size().columns, _WIDEST) - _MARGIN
    moments = replayed.moments
    peak = max((moment.most for moment in moments), key=len)
    sized = bool(peak[0].size_bytes)
    repeat = max(width // len(moments), 1) if len(moments) < width else 1
    kept = [float(len(moment.kept)) for moment in moments for _ in range(repeat)]
    most = [float(len(moment.most)) for moment in moments for _ in range(repeat)]
    lines = draw_columns(kept, most, width, _HEIGHT, blocks=knows_blocks(sys.stdout.encoding))
    output.line(("Disk use", "bold"), ": filled after each save, shaded while it is made")
    top = format_size(_bytes(peak)) if sized else str(len(peak))
    for number, line in enumerate(lines):
        output.line(f"{top if number == 0 else '':>{_MARGIN - 3}} |", (line, "cyan"))
    first, last = str(moments[0].checkpoint.step), str(moments[-1].checkpoint.step)
    drawn = max(min(len(kept), width) - len(first), 0)
    output.line(f"{'0':>{_MARGIN - 3}} +{first}{last:>{drawn}}" if len(moments) > 1 else f"{'0':>9} +{first}")


def _print_end(replayed: Replay, end: Outcome, output: Output, *, crashed: bool) -> None:
    output.line()
    title = f"Crash after step {end.step:,}" if crashed else f"After the last step, {end.step:,}"
    output.line((title, "bold"))
    reasons = replayed.moments[-1].plan if replayed.moments else None
    for checkpoint in end.on_disk:
        why = "; ".join(reasons.reasons(checkpoint.generation)) if reasons else ""
        output.line(f"  on disk      {checkpoint.name} ({why})")
    resume = end.resume.name if end.resume else "nothing: start anew"
    output.line("  resume from  ", (resume, "bold cyan"))
    output.line("  deploy       ", (end.deploy.name if end.deploy else "nothing is ranked", "bold green"))
    output.line()
    for text in end.why:
        output.line(text)
    if crashed and end.resume is not None and end.resume.step == end.step:
        before = f"step {end.before.step}" if end.before else "the start"
        output.line(
            f"Had the crash come before the save of step {end.step} was committed, {before} would be the resume point: "
            "nothing is removed before the new one is durable."
        )


def _to_json(replayed: Replay, end: Outcome) -> dict[str, Any]:
    policy = replayed.policy
    return {
        "policy": format_spec(policy.rules),
        "metric": policy.metric.name if policy.metric else None,
        "mode": policy.metric.mode if policy.metric else None,
        "saves": [
            {
                "step": moment.checkpoint.step,
                "occasion": moment.occasion.value,
                "metrics": dict(moment.checkpoint.metrics),
                "on_disk": [checkpoint.step for checkpoint in moment.kept],
                "removed": [{"step": checkpoint.step, "reason": reason} for checkpoint, reason in moment.removed],
                "thinned": [{"step": checkpoint.step, "reason": reason} for checkpoint, reason in moment.thinned],
                "bytes": _bytes(moment.kept),
                "bytes_during_save": _bytes(moment.most),
            }
            for moment in replayed.moments
        ],
        "end": {
            "step": end.step,
            "on_disk": [checkpoint.step for checkpoint in end.on_disk],
            "resume": end.resume.step if end.resume else None,
            "deploy": end.deploy.step if end.deploy else None,
            "lost_steps": end.lost_steps,
            "why": list(end.why),
        },
    }
