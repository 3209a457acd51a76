"""Tests of tables on a terminal: what is put there directly is what rich would have drawn."""

from __future__ import annotations

import io
import random

import pytest
from rich import box
from rich.console import Console, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from keepstep.cli.drawing import table_drawing
from keepstep.cli.drawing.table_drawing import DrawnTable, styled
from keepstep.cli.drawing.tables import GAP, Cell, Column, Table
from keepstep.cli.drawing.text import clean

WORDS = (
    *("a", "word", "longerword" * 3, "12.5 kB", "-", "x y z", "a  b", " before", "after ", "[b]x[/b]", ":smile:"),
    *("", "\t", "\x1b[2J", "検証済", "e\u0301x", "👩‍💻", "🏳️‍🌈ab", "█▓░"),
)
STYLES = ("", "bold", "dim", "bold red", "cyan")


class _Screen(io.StringIO):
    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._encoding


def _shown(table: RenderableType, width: int, encoding: str) -> str:
    screen = _Screen(encoding)
    colours = {"force_terminal": True, "color_system": "256", "legacy_windows": False}
    Console(file=screen, width=width, markup=False, highlight=False, emoji=False, **colours).print(table)
    return screen.getvalue()


def _by_rich_alone(table: Table, width: int, encoding: str) -> RichTable:
    table = table.fitted(width)
    lines = box.SIMPLE_HEAD if encoding == "utf-8" else None
    drawn = RichTable(box=lines, header_style="bold", pad_edge=False, show_edge=False, padding=(0, GAP - 1, 0, 0))
    for index, column in enumerate(table.columns):
        drawn.add_column(
            clean(column.name),
            justify=column.align,
            no_wrap=not column.folds,
            overflow="fold",
            min_width=table.needs(index),
        )
    for row in table.rows:
        drawn.add_row(*(Text("\n").join(styled([span]) for span in cell.spans) for cell in row))
    return drawn


def _some_table(dice: random.Random) -> Table:
    def text() -> str:
        return " ".join(dice.choices(WORDS, k=dice.choice([1, 1, 1, 2, 5])))

    def cell() -> Cell:
        spans = dice.choice([0, 1, 1, 1, 1, 2, 3])
        return Cell(tuple(text() if dice.random() < 0.4 else (text(), dice.choice(STYLES)) for _ in range(spans)))

    columns = tuple(
        Column(
            text(),
            dice.choice(["left", "right"]),
            folds=dice.random() < 0.4,
            minimum=dice.choice([4, 10, 24]),
            essential=dice.random() < 0.5,
        )
        for _ in range(dice.randint(1, 6))
    )
    return Table(columns, tuple(tuple(cell() for _ in columns) for _ in range(dice.randint(0, 6))))


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("width", [5, 10, 20, 30, 40, 60, 80, 120, 300])
def test_it_is_what_rich_alone_would_draw(width: int, encoding: str) -> None:
    dice = random.Random(width)
    for _ in range(40):
        table = _some_table(dice)
        expected = _shown(_by_rich_alone(table, width, encoding), width, encoding)
        assert _shown(DrawnTable(table), width, encoding) == expected, table


def test_rich_sees_the_widest_rows_alone_where_nothing_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = (Column("Step", "right"), Column("Size", "right"), Column("Why", folds=True))
    rows = tuple((Cell.of(str(step)), Cell.of(f"{step} kB", "bold"), Cell.of("kept")) for step in range(1000))
    made: list[int] = []
    original = table_drawing._text
    monkeypatch.setattr(table_drawing, "_text", lambda spans: made.append(1) or original(spans))

    shown = _shown(DrawnTable(Table(columns, rows)), 80, "utf-8")

    assert len(shown.splitlines()) == 1002
    assert len(made) == len(columns) ** 2
