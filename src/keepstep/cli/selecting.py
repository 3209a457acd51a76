"""Which rows of a list are shown, in which order, and which columns of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar

import click
import msgspec

from keepstep.cli.drawing.tables import Table
from keepstep.units import parse_duration

F = TypeVar("F", bound=Callable[..., Any])
Row = TypeVar("Row")
Sort = Literal["name", "step", "metric", "size", "age"]
Keys = dict[Sort, Callable[[Any], Any]]
"""What rows are ordered by, the least first."""


class Selection(msgspec.Struct, frozen=True):
    """Which rows, in which order, and which columns; None for what was not asked for. `since` is a moment, UTC."""

    sort: Sort | None = None
    limit: int | None = None
    columns: tuple[str, ...] = ()
    since: datetime | None = None

    @classmethod
    def of(cls, *, sort: Sort | None, limit: int | None, columns: str | None, since: str | None) -> Selection:
        """What the options say. Raises QuantityError."""
        names = tuple(_slug(name) for name in (columns or "").split(",") if name.strip())
        return cls(sort, limit, names, None if since is None else _moment(since))

    def rows(
        self, rows: Sequence[Row], keys: Keys, moment: Callable[[Row], datetime | None], *, newest_last: bool = False
    ) -> list[Row]:
        """Those that are shown. Where nothing says how to sort and the newest come last, a limit leaves the newest."""
        found = [row for row in rows if self.since is None or ((at := moment(row)) is not None and at >= self.since)]
        if self.sort is not None:
            found.sort(key=keys[self.sort])
        if self.limit is None:
            return found
        return found[-self.limit :] if newest_last and self.sort is None else found[: self.limit]

    def table(self, table: Table) -> Table:
        """The table with the columns that were asked for, in that order; all of them for none."""
        if not self.columns:
            return table
        names = [_slug(column.name) for column in table.columns]
        return table.only([names.index(name) for name in _known(self.columns, names)])

    def members(self, rows: Sequence[dict[str, Any]], all_of_them: Sequence[str]) -> list[dict[str, Any]]:
        """The members of rows for programs that were asked for, in that order."""
        names = _known(self.columns, all_of_them) if self.columns else ()
        return [{name: row[name] for name in names} for row in rows] if names else list(rows)


def selection_options(function: F) -> F:
    """`--sort`, `--limit`, `--columns` and `--since`: what `Selection.of` takes."""
    decorated: Any = function
    for option in (
        click.option("--since", metavar="TIME", help="Only what was saved since then: 2d, 12h, or a date in ISO 8601."),
        click.option("--columns", metavar="NAME,...", help="Only these columns, by their headings: step,size,age."),
        click.option(
            "--limit",
            type=click.IntRange(min=1),
            metavar="N",
            help="No more than N rows: the first ones in the order of --sort; without it the newest checkpoints.",
        ),
        click.option(
            "--sort",
            type=click.Choice(["name", "step", "metric", "size", "age"]),
            help="metric: the best first; size: the largest first; age: the newest first; step: the lowest first.",
        ),
    ):
        decorated = option(decorated)
    return decorated


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    return found if found.tzinfo else found.astimezone()


def _known(wanted: Sequence[str], names: Sequence[str]) -> list[str]:
    """The columns that are meant; `size` is `size_bytes`, and `age` is when, for programs. Raises UsageError."""
    found = [
        next((n for n in (name, f"{name}_bytes", *_OTHER_NAMES.get(name, ())) if n in names), None) for name in wanted
    ]
    for name, known in zip(wanted, found, strict=True):
        if known is None:
            raise click.UsageError(f"--columns: there is no column {name!r}. There are {', '.join(names)}.")
    return [name for name in found if name is not None]


_OTHER_NAMES = {"age": ("created", "latest"), "size_bytes": ("size",), "created": ("age",), "latest": ("age",)}


def _slug(name: str) -> str:
    return "_".join(name.strip().lower().split())
