"""Tables as data: columns that can fold or go, cells of styled lines, and their plain text form."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from keepstep.cli.drawing.text import clean

Span = str | tuple[str, str]
"""Text, or text and its style."""
Align = Literal["left", "right"]
GAP = 2
EMPTY = "-"
"""Stands for an empty cell in plain text, so that every line has the same number of columns."""


class Column(msgspec.Struct, frozen=True):
    """A column's heading.

    `folds`: may wrap, down to `minimum` characters. `essential`: stays on any terminal. `telling`: worth its
    place on a terminal only where rows differ.
    """

    name: str
    align: Align = "left"
    folds: bool = False
    minimum: int = 24
    essential: bool = False
    telling: bool = False


class Cell(msgspec.Struct, frozen=True, gc=False):
    """One cell: a line for each span on a terminal; joined by `separator` in plain text."""

    # No dataclass: a table of thousands of checkpoints has a hundred thousand of them.

    spans: tuple[Span, ...]
    separator: str = "; "

    @classmethod
    def of(cls, text: str, style: str = "") -> Cell:
        """A cell of one line, empty for an empty text."""
        return cls(((text, style),) if text else ())

    @property
    def lines(self) -> list[str]:
        """The lines without styles and without control characters."""
        return [clean(span if isinstance(span, str) else span[0]) for span in self.spans]


class Table(msgspec.Struct, frozen=True):
    """Columns in the order of their importance, and rows of as many cells."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def fitted(self, width: int) -> Table:
        """The table without the last columns that don't fit into `width` characters; essential ones stay."""
        shown = list(range(len(self.columns)))
        widths = [self.needs(index) for index in shown]
        for index in reversed(range(len(self.columns))):
            if sum(widths[i] for i in shown) + GAP * (len(shown) - 1) <= width:
                break
            if not self.columns[index].essential:
                shown.remove(index)
        return self.only(shown)

    def informative(self) -> Table:
        """The table without columns that say nothing: those without content, and telling ones of a single value."""
        return self.only([index for index, column in enumerate(self.columns) if column.essential or self._tells(index)])

    def only(self, indexes: Sequence[int]) -> Table:
        """The table with these columns alone."""
        return Table(
            tuple(self.columns[i] for i in indexes), tuple(tuple(row[i] for i in indexes) for row in self.rows)
        )

    def _tells(self, index: int) -> bool:
        if self.columns[index].telling:
            return len({tuple(row[index].lines) for row in self.rows}) > 1
        return any(row[index].spans for row in self.rows)

    def needs(self, index: int) -> int:
        """Characters that a column can't do without."""
        column = self.columns[index]
        lines = [line for row in self.rows for line in row[index].lines]
        widest = max([columns_of(line) for line in lines], default=0)
        return max(columns_of(column.name), min(widest, column.minimum) if column.folds else widest)


def plain_lines(table: Table) -> Iterator[str]:
    """A line for the headings and one for each row, aligned by spaces, nothing dropped."""
    texts = [[clean(column.name) for column in table.columns]]
    texts += [[cell.separator.join(cell.lines) or EMPTY for cell in row] for row in table.rows]
    widths = [max(map(columns_of, column)) for column in zip(*texts, strict=True)]
    aligns: list[Align] = [column.align for column in table.columns]
    for line in texts:
        yield (" " * GAP).join(map(_pad, line, widths, aligns)).rstrip()


def columns_of(text: str) -> int:
    """Terminal columns of a text: wide characters take two, combining ones none (UAX #11)."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _pad(text: str, width: int, align: Align) -> str:
    if text.isascii():
        return text.rjust(width) if align == "right" else text.ljust(width)
    space = " " * (width - columns_of(text))
    return space + text if align == "right" else text + space
