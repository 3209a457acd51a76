"""The HTML of a run, a checkpoint, a plan and a checkpointer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from html import escape

from keepstep.checkpointer import Checkpointer
from keepstep.cli.commands.ls import checkpoint_table, what_it_does
from keepstep.cli.drawing.tables import Cell, Column, Table
from keepstep.cli.drawing.text import clean, count
from keepstep.errors import RunNotFound
from keepstep.model import Checkpoint, Kind
from keepstep.notebook.picture import Mark, draw
from keepstep.operations.seeing.certainty import certainty_of_best
from keepstep.operations.seeing.listing import Row
from keepstep.operations.seeing.receipts import receipts, told
from keepstep.operations.seeing.watching import View, Watcher
from keepstep.retention import Outcome, Plan
from keepstep.run import Run
from keepstep.units import format_age, format_moment, format_number, format_size

MOST_ROWS = 50
"""Rows of a table; of more the newest are shown, and how many there are."""
_COLOURS = {"green": "#2e9e5b", "red": "#d24b4b", "yellow": "#b8860b", "blue": "#3f83c8", "cyan": "#2a94a5",
            "magenta": "#a45bb5"}  # fmt: skip
_CELL = "padding:.25em .8em .25em 0;vertical-align:top;border-bottom:1px solid rgba(128,128,128,.25)"


def run_page(run: Run) -> str:
    """Policy, curve with checkpoints, the list with reasons, and the receipt of the last resume."""
    return _page([*_run_parts(run), *_receipt(run)])


def _receipt(run: Run) -> Iterator[str]:
    """How exact the last resume was, line by line, as the event log has it."""
    last = receipts(run.events.read())[-1:]
    for line in told(last[0]) if last else ():
        yield f"<div>{_text(line)}</div>"


def _run_parts(run: Run) -> list[str]:
    metric = run.policy.metric
    view = Watcher(run).look()
    if metric is not None and view.metric != metric.name:
        ranked = Watcher(run, metric=metric.name).look()
        view = ranked if len(ranked.curve) > 1 else view
    step = "" if view.step is None else f", step {view.step:,}"
    total = f" of {view.max_steps:,}" if view.max_steps and view.step is not None else ""
    listing = view.listing
    what = f"{view.activity}{step}{total}; keeps {listing.policy.describe()}"
    parts = [f"<div><b>{_text(run.path)}</b> {_text(what)}</div>"]
    if view.metric is not None:
        parts.append(draw(view.metric, view.curve, _marks(view)))
    if (sure := certainty_of_best(run)) is not None:
        parts.append(f"<div>{_text(sure.describe())}</div>")
    if not listing.rows:
        return [*parts, "<div>No checkpoint yet.</div>"]
    parts.append(_table(checkpoint_table(listing).informative()))
    text = f"{count(len(listing.rows), 'checkpoint')}, {format_size(listing.size_bytes)}"
    if listing.plan.changes:
        text += f"; the next prune {what_it_does(listing.plan)} and frees {format_size(listing.plan.freed_bytes)}"
    return [*parts, f"<div>{_text(text)}; {_text(format_size(view.room.free_bytes))} free</div>"]


def checkpointer_page(checkpointer: Checkpointer) -> str:
    """Its run; before a first training what it will do."""
    try:
        run = checkpointer.run
    except RunNotFound:
        where = _text(checkpointer.path)
        return _page([f"<div><b>{where}</b> no training yet; keeps {_text(checkpointer.policy.describe())}</div>"])
    return run_page(run)


def checkpoint_page(checkpoint: Checkpoint) -> str:
    """What it is, its metrics, and its files."""
    kind = "full" if checkpoint.kind is Kind.FULL else "weights only"
    epoch = "" if checkpoint.epoch is None else f", epoch {checkpoint.epoch:.2f}"
    age = format_age(checkpoint.created, datetime.now(UTC))
    facts = [
        ("step", f"{checkpoint.step}{epoch}"),
        ("kind", f"{kind}, {checkpoint.state.value}"),
        ("generation", f"{checkpoint.generation} of timeline {checkpoint.timeline}"),
        ("created", f"{format_moment(checkpoint.created)} ({age} ago)"),
        ("size", f"{format_size(checkpoint.size_bytes)} in {count(len(checkpoint.files), 'file')}"),
        ("path", "not on disk" if checkpoint.path is None else str(checkpoint.path)),
        *((name, format_number(value)) for name, value in checkpoint.metrics.items()),
    ]
    table = Table((Column(""), Column("")), tuple((Cell.of(name), Cell.of(text)) for name, text in facts))
    files = Table(
        (Column("File"), Column("Size", "right"), Column("Digest")),
        tuple((Cell.of(f.path), Cell.of(format_size(f.size)), Cell.of(f.digest)) for f in checkpoint.files),
    )
    folded = f"<details><summary>{_text(count(len(checkpoint.files), 'file'))}</summary>{_table(files)}</details>"
    return _page([f"<div><b>{_text(checkpoint.name)}</b></div>", _table(table, heading=False), folded])


def plan_page(plan: Plan) -> str:
    """Each decision with its reasons, and what the plan frees."""
    styles = {Outcome.KEEP: "green", Outcome.THIN: "yellow", Outcome.REMOVE: "red"}
    rows = tuple(
        (
            Cell.of(str(decision.checkpoint.step)),
            Cell.of(decision.outcome.value, styles[decision.outcome]),
            Cell.of(format_size(decision.checkpoint.size_bytes)),
            Cell(decision.reasons),
        )
        for decision in plan.decisions
    )
    columns = (Column("Step", "right"), Column("Action"), Column("Size", "right"), Column("Because"))
    does = what_it_does(plan) or "removes nothing"
    text = f"{does}, frees {format_size(plan.freed_bytes)}, leaves {format_size(plan.kept_bytes)}"
    return _page([f"<div><b>Plan</b> {_text(text)}</div>", _table(Table(columns, rows))])


def _marks(view: View) -> list[Mark]:
    gone = [Mark(step, "removed", f"step {step}: removed or set aside") for step in view.gone]
    return [*gone, *map(_mark, view.listing.rows)]


def _mark(row: Row) -> Mark:
    kind = "best" if row.best else "thinned" if row.checkpoint.kind is Kind.WEIGHTS else "kept"
    return Mark(row.checkpoint.step, kind, f"step {row.checkpoint.step}: {'; '.join(row.reasons)}")


def _page(parts: Iterable[str]) -> str:
    return f'<div class="keepstep" style="line-height:1.5">{"".join(parts)}</div>'


def _table(table: Table, *, heading: bool = True) -> str:
    aligns = [column.align for column in table.columns]
    head = "".join(
        f'<th scope="col" style="{_CELL};text-align:{align}">{_text(column.name)}</th>'
        for column, align in zip(table.columns, aligns, strict=True)
    )
    body = "".join(_row(cells, aligns) for cells in table.rows[-MOST_ROWS:])
    more = len(table.rows) - MOST_ROWS
    older = f"<div>and {_text(count(more, 'older one'))}</div>" if more > 0 else ""
    top = f"<thead><tr>{head}</tr></thead>" if heading else ""
    style = "border-collapse:collapse;color:inherit;background:none;font-variant-numeric:tabular-nums"
    return f'<table style="{style}">{top}<tbody>{body}</tbody></table>{older}'


def _row(cells: Sequence[Cell], aligns: Sequence[str]) -> str:
    parts = (
        f'<td style="{_CELL};text-align:{align}">{"<br>".join(map(_span, cell.spans))}</td>'
        for cell, align in zip(cells, aligns, strict=True)
    )
    return f'<tr style="background:none">{"".join(parts)}</tr>'


def _span(span: str | tuple[str, str]) -> str:
    if isinstance(span, str):
        return _text(span)
    text, style = span
    words = style.split()
    rules = [f"color:{_COLOURS[word]}" for word in words if word in _COLOURS]
    rules += ["font-weight:bold"] * ("bold" in words) + ["opacity:.6"] * ("dim" in words)
    return f'<span style="{";".join(rules)}">{_text(text)}</span>' if rules else _text(text)


def _text(value: object) -> str:
    return escape(clean(value))
