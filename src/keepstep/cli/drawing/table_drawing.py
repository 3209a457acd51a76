"""Tables on a terminal: rich measures them and draws what folds; thousands of cells that fit are put there as they are.

The same characters as a `rich.table.Table` of all rows, which takes a millisecond for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.style import Style
from rich.table import Table as RichTable
from rich.text import Text

from keepstep.cli.drawing.tables import GAP, Cell, Column, Span, Table
from keepstep.cli.drawing.text import clean


class DrawnTable:
    """A table that rich can print; `fitted` to the width of what it is printed to."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self._table.fitted(options.max_width)
        lines = box.SIMPLE_HEAD if options.encoding.lower().startswith("utf") else None
        rulers = [_Ruler() for _ in table.columns]
        measured = _rich_table(table, lines, _widest(table))
        measured.add_row(*rulers)
        console.render_lines(measured, options)
        widths = [ruler.width for ruler in rulers]
        if not all(widths):  # there is no room even for what is essential
            yield _rich_table(table, lines, table.rows)
            return
        yield _rich_table(table, lines, widths=widths)
        rows = _Rows(console, table.columns, widths, " " * (GAP if lines else GAP - 1))
        for row in table.rows:
            yield from rows.drawn(row)


class _Ruler:
    """Stands in a column for nothing but to hear how wide rich makes it."""

    width = 0

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(0, 0)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.width = options.max_width
        yield Segment("")


class _Rows:
    """Draws rows below a heading that is there."""

    def __init__(self, console: Console, columns: Sequence[Column], widths: list[int], gap: str) -> None:
        self._console = console
        self._columns = list(zip(columns, widths, strict=True))
        self._gap = gap
        self._styles: dict[str, Style | None] = {"": None}

    def drawn(self, row: tuple[Cell, ...]) -> Iterator[Segment]:
        cells = [self._lines(cell, column, width) for cell, (column, width) in zip(row, self._columns, strict=True)]
        for number in range(max(map(len, cells), default=0)):
            # What has no style is one text, from one that has to the next.
            plain, gap = "", ""
            for lines, (column, width) in zip(cells, self._columns, strict=True):
                text, style = lines[number] if number < len(lines) else ("", None)
                space = " " * (width - _cells(text))
                plain += gap + space if column.align == "right" else gap
                if style is None:
                    plain += text
                else:
                    yield from (Segment(plain), Segment(text, style))
                    plain = ""
                plain += "" if column.align == "right" else space
                gap = self._gap
            yield Segment(plain)
            yield Segment.line()

    def _lines(self, cell: Cell, column: Column, width: int) -> list[tuple[str, Style | None]]:
        """A cell's lines, none wider than its column."""
        found: list[tuple[str, Style | None]] = []
        for span in cell.spans:
            content, style = (span, "") if isinstance(span, str) else span
            text = clean(content)
            if max(len(text), _cells(text)) <= width:  # rich counts combining characters when it cuts trailing spaces
                texts = [text]
            else:
                wrapped = Text(text).wrap(self._console, width, overflow="fold", no_wrap=not column.folds)
                texts = [line.plain for line in wrapped]
            found += [(text.rstrip() if column.align == "right" else text, self._style(style)) for text in texts]
        return found or [("", None)]

    def _style(self, name: str) -> Style | None:
        if name not in self._styles:
            self._styles[name] = self._console.get_style(name)
        return self._styles[name]


def _cells(text: str) -> int:
    return len(text) if text.isascii() else cell_len(text)


def styled(spans: Sequence[Span]) -> Text:
    """Texts one behind the other, each plain or with a style; control characters are escaped."""
    text = Text(overflow="fold")
    for span in spans:
        content, style = (span, "") if isinstance(span, str) else span
        text.append(clean(content), style)
    return text


def _text(spans: Sequence[Span]) -> Text:
    return Text("\n").join(styled([span]) for span in spans) if spans else Text()


def _widest(table: Table) -> list[tuple[Cell, ...]]:
    """The rows that the widths of columns depend on."""
    if not table.rows:
        return []

    def width(row: tuple[Cell, ...], index: int) -> int:
        return max(map(_cells, row[index].lines), default=0)

    return [max(table.rows, key=lambda row, index=index: width(row, index)) for index in range(len(table.columns))]


def _rich_table(
    table: Table, lines: box.Box | None, rows: Sequence[tuple[Cell, ...]] = (), *, widths: Sequence[int] = ()
) -> RichTable:
    """The table with these of its rows; its columns as wide as their contents ask for, unless `widths` are given."""
    drawn = RichTable(box=lines, header_style="bold", pad_edge=False, show_edge=False, padding=(0, GAP - 1, 0, 0))
    for index, column in enumerate(table.columns):
        drawn.add_column(
            clean(column.name),
            justify=column.align,
            no_wrap=not column.folds,
            overflow="fold",
            min_width=widths[index] if widths else table.needs(index),
            max_width=widths[index] if widths else None,
        )
    for row in rows:
        drawn.add_row(*(_text(cell.spans) for cell in row))
    return drawn
