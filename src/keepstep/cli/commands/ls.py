"""`keepstep ls`: the checkpoints of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from keepstep.cli.command import command, format_option
from keepstep.cli.drawing.render import Block, Line, Output
from keepstep.cli.drawing.tables import Cell, Column, Span, Table
from keepstep.cli.drawing.text import clean, count, shorten
from keepstep.cli.many import Outcomes, runs_argument
from keepstep.cli.selecting import Keys, Selection, selection_options
from keepstep.model import Kind, State
from keepstep.operations.seeing.listing import Listing, Row, list_checkpoints
from keepstep.operations.seeing.noise import NOISE
from keepstep.retention import Metric, Plan
from keepstep.run import DAMAGED, Run
from keepstep.units import align_numbers, format_age, format_number, format_size

SHOWN_METRICS = 3
LONGEST_NAME = 32
OTHERS = "Other metrics"
WATCH_SECONDS = 2.0
COLUMNS = (
    "step", "epoch", "generation", "timeline", "parent", "kind", "metrics", "action", "kept_because", "pinned", "tags",
    "size_bytes", "created", "state", "verified", "path",
)  # fmt: skip
"""What `Row.to_json` names: the heading of a list without rows."""


def _together(
    *, paths: Sequence[Path], outcomes: Outcomes, output: Output, aside: bool, watch: bool, tree: bool, **chosen: Any
) -> None:
    if aside or watch or tree:
        raise click.UsageError(
            f"{'--all' if aside else '--watch' if watch else '--tree'} shows one run: name it alone."
        )
    from keepstep.cli.commands.several import list_runs

    list_runs(paths, Selection.of(**chosen), outcomes, output)


@command(
    "ls",
    examples=[
        ("keepstep ls runs/sft", "every checkpoint, and why it is kept"),
        (
            "keepstep ls runs/sft --all",
            "also those set aside by a rewind, quarantined ones, and those of previous runs",
        ),
        ("keepstep ls runs/sft --tree", "what grew from what: timelines, previous runs, and branches"),
        ("keepstep ls runs/sft --sort metric --limit 3", "the best three"),
        ("keepstep ls s3://bucket/team/sft", "what a mirror holds; so do show, best, resume, du, verify and export"),
        ("keepstep ls", "the run here, or a table of the runs below"),
        ("keepstep ls --root runs --since 2d --sort age", "runs that saved in the last two days, the newest first"),
        ("keepstep ls runs/sft --format json | jq '.[] | select(.pinned) | .path'", "paths of what is pinned"),
    ],
)
@runs_argument(together=_together, here=True)
@click.option(
    "--all", "aside", is_flag=True, help="Also list what a rewind or a fresh start set aside and what is in quarantine."
)
@click.option("--tree", is_flag=True, help="Draw what grew from what: rewinds, previous runs and branches as well.")
@click.option("--watch", is_flag=True, help="Go on and show it anew every two seconds, until q or Ctrl-C.")
@selection_options
@format_option
def ls(*, run: Run, aside: bool, watch: bool, tree: bool, output: Output, **chosen: Any) -> None:
    """What the policy would drop at the next save is marked; nothing is removed by listing.

    Of several runs a table: what each does, its newest step, its best value as it was logged. No file is verified.
    """
    selection = Selection.of(**chosen)
    if tree:
        if watch or selection != Selection():
            raise click.UsageError("--tree shows all of a run, once: leave the other options out.")
        from keepstep.cli.growth import show_tree

        show_tree(run, output, marks)
        return
    if watch and output.is_rich:
        from keepstep.cli.drawing.live import show_live

        show_live(output, lambda height: _blocks(run, _listed(run, aside, selection), selection), WATCH_SECONDS)
        return
    listing = _listed(run, aside, selection)
    if output.is_json:
        rows = selection.members([row.to_json() for row in listing.rows], COLUMNS)
        output.json(rows, columns=selection.columns or COLUMNS)
    elif listing.rows:
        _print(run, listing, selection, output)
    if run.file.branched:
        output.note(f"note: it was branched off {run.file.branched}")
    for foreign in listing.foreign:
        output.note(f"note: {foreign.path.name} is not counted, and left alone: {foreign.reason}")
    if not listing.rows:
        found = "no such checkpoint" if selection.since else "no checkpoint yet"
        output.note(f"{run.address} has {found}")


def _listed(run: Run, aside: bool, selection: Selection) -> Listing:
    listing = list_checkpoints(run, aside=aside)
    if selection == Selection():
        return listing
    metric = listing.metric

    def value(row: Row) -> tuple[bool, float]:
        found = metric.value(row.checkpoint.metrics) if metric else None
        return found is None or math.isnan(found), 0.0 if found is None else _upwards(metric, found)

    keys: Keys = {
        "name": lambda row: row.checkpoint.generation,
        "step": lambda row: row.checkpoint.step,
        "metric": value,
        "size": lambda row: -row.checkpoint.size_bytes,
        "age": lambda row: -row.checkpoint.created.timestamp(),
    }
    rows = selection.rows(listing.rows, keys, lambda row: row.checkpoint.created, newest_last=True)
    return replace(listing, rows=tuple(rows))


def _upwards(metric: Metric | None, value: float) -> float:
    """The value, so that a lower one is better."""
    return -value if metric is not None and metric.mode == "max" else value


def _print(run: Run, listing: Listing, selection: Selection, output: Output) -> None:
    if output.is_rich:
        output.frame(_blocks(run, listing, selection))
    else:
        output.table(selection.table(checkpoint_table(listing)))


def _blocks(run: Run, listing: Listing, selection: Selection) -> list[Block]:
    title = Line(((run.address, "bold"), " "), (f"keeps {listing.policy.describe()}",))
    if not listing.rows:
        return [title, Line(), Line((("no checkpoint yet", "dim"),))]
    everything = checkpoint_table(listing)
    table = selection.table(everything) if selection.columns else everything.informative()
    mirror = [Line(((f"Mirror: {clean(listing.mirror.text)}.", "dim"),))] if listing.mirror else []
    return [title, Line(), table, Line(), Line(((_summary(listing), "dim"),)), *mirror]


def _summary(listing: Listing) -> str:
    text = f"{count(len(listing.rows), 'checkpoint')}, {format_size(listing.size_bytes)}."
    plan, budget = listing.plan, listing.limits.budget
    if budget is not None:
        text += f" Budget {format_size(budget)}, {format_size(plan.taken_bytes)} used."
    if plan.changes:
        text += f" The next prune {what_it_does(plan)} and frees {format_size(plan.freed_bytes)}."
    if unread := sum(row.state == State.COMMITTED.value and row.verified is None for row in listing.rows):
        text += f" {'None' if unread == len(listing.rows) else f'All but {unread}'} verified since the commit."
    return text


def what_it_does(plan: Plan, of: str = "") -> str:
    """`removes 2`, `thins 1` or `removes 2, thins 1`, then `of` what, before `removes 1 that lay aside`."""
    parts = [(len(plan.remove), "removes"), (len(plan.thin), "thins")]
    inside = ", ".join(f"{word} {number}" for number, word in parts if number)
    inside += f" {of}" if inside and of else ""
    aside = f"removes {len(plan.remove_aside)} that lay aside" if plan.remove_aside else ""
    return ", ".join(part for part in (inside, aside) if part)


def checkpoint_table(listing: Listing) -> Table:
    metric, now = listing.metric, datetime.now(UTC)
    columns = (
        Column("Step", "right", essential=True),
        Column("Epoch", "right"),
        Column(metric.name if metric else "Metric", "right", folds=True, minimum=12),
        Column("Mark", folds=True, minimum=10),
        Column("Kept because", folds=True, essential=True),
        Column("Size", "right"),
        Column("Age", "right"),
        Column("State", telling=True),
        Column("Timeline", "right", telling=True),
        Column(OTHERS, folds=True, minimum=40),
    )
    values = align_numbers([metric.value(row.checkpoint.metrics) if metric else None for row in listing.rows])
    rows = (_cells(row, value, metric, now) for row, value in zip(listing.rows, values, strict=True))
    return Table(columns, tuple(rows))


def _cells(row: Row, value: str, metric: Metric | None, now: datetime) -> tuple[Cell, ...]:
    checkpoint = row.checkpoint
    style = "" if row.keep else "dim"
    return (
        Cell.of(str(checkpoint.step), "bold" if row.keep else style),
        Cell.of("" if checkpoint.epoch is None else f"{checkpoint.epoch:.2f}", style),
        Cell.of(value, "green" if row.best else style),
        Cell(marks(row), separator=" "),
        Cell(why(row)),
        Cell.of(format_size(checkpoint.size_bytes), style),
        Cell.of(format_age(checkpoint.created, now), style),
        Cell.of(standing(row, now), "bold red" if row.state == DAMAGED else style),
        Cell.of(str(checkpoint.timeline), style),
        Cell(tuple(_other_metrics(checkpoint.metrics, metric)), separator=", "),
    )


def standing(row: Row, now: datetime) -> str:
    """Its state; of one that is committed whether its bytes were ever read again since, and when last."""
    if row.state != State.COMMITTED.value:
        return row.state
    return f"verified {format_age(row.verified, now)} ago" if row.verified else "committed, not verified"


def marks(row: Row) -> tuple[Span, ...]:
    """What a checkpoint stands out by: damaged, best, newest, weights only, pinned, #tag."""
    found: list[Span] = []
    found += [(DAMAGED, "bold red")] if row.state == DAMAGED else []
    found += [("best", "bold green")] if row.best else []
    found += [("newest", "bold cyan")] if row.newest else []
    found += [("weights", "blue")] if row.checkpoint.kind is Kind.WEIGHTS else []
    found += [("pinned", "bold yellow")] if row.pinned else []
    return (*found, *((f"#{tag}", "bold magenta") for tag in row.tags))


def why(row: Row) -> tuple[Span, ...]:
    """The plan's reasons; what would go, or be thinned, says so."""
    if row.thin:
        return (*row.reasons, ("would be thinned to weights: kept for quality only", "yellow"))
    if row.keep:
        return row.reasons
    return tuple((f"would be removed: {reason}", "yellow") for reason in row.reasons)


def _other_metrics(metrics: Mapping[str, float], ranked_by: Metric | None) -> list[str]:
    """The first metrics beside the one that ranks, and how many more there are."""
    ranking = {ranked_by.name, ranked_by.name.removeprefix("eval_")} if ranked_by else set[str]()
    others = [name for name in metrics if name not in ranking]
    shown = [name for name in others if not name.endswith(NOISE)][:SHOWN_METRICS]
    texts = [f"{shorten(name, LONGEST_NAME)} {format_number(metrics[name])}" for name in shown]
    more = len(others) - len(shown)
    return [*texts, f"and {more} more" if shown else f"{more} more"] if more else texts
