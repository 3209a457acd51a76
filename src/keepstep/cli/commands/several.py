"""The tables of `keepstep ls` and `keepstep best` for several runs."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.tables import Cell, Column, Table
from keepstep.cli.drawing.text import count
from keepstep.cli.many import Outcomes, error_of
from keepstep.cli.selecting import Keys, Selection
from keepstep.retention import Metric
from keepstep.units import align_numbers, format_age, format_number, format_size

if TYPE_CHECKING:
    from keepstep.operations.many import BestRow, RunRow, Survey

Row = TypeVar("Row")
RUN_COLUMNS = (
    "run", "managed", "state", "checkpoints", "step", "metric", "mode", "best_step", "best_value", "size_bytes",
    "latest",
)  # fmt: skip
"""What `RunRow.to_json` names."""
BEST_COLUMNS = (
    "run", "managed", "step", "path", "metric", "mode", "value", "size_bytes", "resumable", "resumable_by",
    "not_resumable_because", "certainty",
)  # fmt: skip
"""What `BestRow.to_json` names."""
_STYLES = {"training": "bold green", "not managed": "dim", "damaged": "bold red"}


def list_runs(paths: Sequence[Path], selection: Selection, outcomes: Outcomes, output: Output) -> None:
    """A table of runs, or a line of JSON for each."""
    rows = _looked(paths, outcomes, output, lambda survey, path: survey.row(path))
    rows = selection.rows(rows, _KEYS, lambda row: row.latest)
    if output.is_json:
        _print_json(selection.members([row.to_json() for row in rows], RUN_COLUMNS), RUN_COLUMNS, outcomes, output)
        return
    if rows:
        table = _table_of_runs(rows)
        output.table(selection.table(table) if selection.columns or not output.is_rich else table.informative())
    if rows and output.is_rich:
        output.line()
        total = format_size(sum(row.size_bytes for row in rows))
        output.line((f"{count(len(rows), 'run')}, {total} of checkpoints.", "dim"))
    if not rows and not outcomes.errors:
        output.note("no run saved anything since then")


def best_of_runs(*, paths: Sequence[Path], outcomes: Outcomes, output: Output) -> None:
    """A table of the best of each run, or a line of JSON for each."""
    rows = _looked(paths, outcomes, output, lambda survey, path: survey.best(path))
    rows.sort(key=_by_value)
    if output.is_json:
        _print_json([row.to_json() for row in rows], BEST_COLUMNS, outcomes, output)
        return
    if rows:
        table = _table_of_best(rows)
        output.table(table.informative() if output.is_rich else table)
        unmanaged = " and, where there is no manifest, by names of files" if not all(r.managed for r in rows) else ""
        output.note(f"by what was logged{unmanaged}: nothing was verified. keepstep best RUN and resume RUN verify")


def _looked(
    paths: Sequence[Path], outcomes: Outcomes, output: Output, look: Callable[[Survey, Path], Row]
) -> list[Row]:
    from keepstep.operations.many import Survey
    from keepstep.operations.remembering import Memory

    survey, rows = Survey(Memory.of_user()), list[Row]()
    with output.progress("looking", len(paths), unit="runs") as progress:
        for path in paths:
            row, _ = outcomes.of(path, lambda: look(survey, path))  # noqa: B023
            rows += [] if row is None else [row]
            progress.advance(1)
    survey.end()
    return rows


def _print_json(rows: Sequence[dict[str, object]], columns: Sequence[str], outcomes: Outcomes, output: Output) -> None:
    if output.is_agent:
        output.json(list(rows), columns=columns)
        return
    for row in rows:
        output.json_line(row)
    for path, error in outcomes.errors.items():
        output.json_line({"run": str(path), "error": error_of(error)})


def _table_of_runs(rows: Sequence[RunRow]) -> Table:
    columns = (
        Column("Run", essential=True, folds=True, minimum=16),
        Column("State"),
        Column("Checkpoints", "right"),
        Column("Step", "right", essential=True),
        Column("Best step", "right"),
        Column("Best", "right"),
        Column("Metric"),
        Column("Size", "right", essential=True),
        Column("Age", "right"),
    )
    now = datetime.now(UTC)
    cells = (
        (
            Cell.of(os.fspath(row.path), "bold"),
            Cell.of(row.state, _STYLES.get(row.state, "")),
            Cell.of(str(row.checkpoints)),
            Cell.of("" if row.step is None else str(row.step)),
            Cell.of("" if row.best_step is None else str(row.best_step)),
            Cell.of("" if row.best_value is None else format_number(row.best_value), "green"),
            Cell.of(row.metric.name if row.metric else ""),
            Cell.of(format_size(row.size_bytes)),
            Cell.of("" if row.latest is None else format_age(row.latest, now)),
        )
        for row in rows
    )
    return Table(columns, tuple(cells))


def _table_of_best(rows: Sequence[BestRow]) -> Table:
    columns = (
        Column("Run", essential=True, folds=True, minimum=16),
        Column("Best step", "right", essential=True),
        Column("Metric"),
        Column("Value", "right", essential=True),
        Column("Size", "right"),
        Column("Resumable", folds=True, minimum=10),
        Column("Managed"),
        Column("Against the noise", folds=True, minimum=20),
    )
    values = align_numbers([row.value for row in rows])
    cells = (
        (
            Cell.of(os.fspath(row.path), "bold"),
            Cell.of(str(row.checkpoint.step)),
            Cell.of(row.metric.name),
            Cell.of(value, "green"),
            Cell.of(format_size(row.size_bytes)),
            Cell.of(_resumable(row), "" if row.resumable.yes else "yellow"),
            Cell.of("yes" if row.managed else "no", "" if row.managed else "dim"),
            Cell.of(_certainty(row)),
        )
        for row, value in zip(rows, values, strict=True)
    )
    return Table(columns, tuple(cells))


def _resumable(row: BestRow) -> str:
    if row.resumable.yes:
        return "yes" if row.managed else "by its files"
    return f"no: {row.resumable.why}"


def _certainty(row: BestRow) -> str:
    """`a tie with 3 checkpoints`, `clear of the others`; nothing where too few evaluations tell."""
    sure = row.certainty
    if sure is None:
        return ""
    if sure.ties:
        return f"a tie with {count(len(sure.ties), 'checkpoint')}"
    return "clear of the others" if sure.lead is not None else "the only one"


def _by_value(row: BestRow) -> tuple[str, str, float]:
    return row.metric.name, row.metric.mode, _upwards(row.metric, row.value)


def _upwards(metric: Metric | None, value: float) -> float:
    if math.isnan(value):
        return math.inf
    return -value if metric is not None and metric.mode == "max" else value


def _value_of(row: RunRow) -> tuple[str, float]:
    if row.metric is None or row.best_value is None:
        return "\uffff", math.inf
    return row.metric.name, _upwards(row.metric, row.best_value)


_KEYS: Keys = {
    "name": lambda row: row.path,
    "step": lambda row: -1 if row.step is None else row.step,
    "metric": _value_of,
    "size": lambda row: -row.size_bytes,
    "age": lambda row: -row.latest.timestamp() if row.latest else math.inf,
}
