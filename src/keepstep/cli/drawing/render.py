"""Where output goes: tables on a terminal, aligned text into a pipe, strict JSON for programs, notes on stderr."""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import click
import msgspec

from keepstep.cli.drawing.tables import Span, Table, plain_lines
from keepstep.cli.drawing.text import clean, redraws, wants_colour
from keepstep.strict import changed, finite_or_name, valid_text

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.text import Text

    from keepstep.cli.drawing.progress import Progress

Format = Literal["auto", "human", "json", "agent"]


class Line(msgspec.Struct, frozen=True):
    """One line: a heading, and what folds below its own beginning where there is no room."""

    head: tuple[Span, ...] = ()
    body: tuple[Span, ...] = ()


Block = Line | Table


class Output:
    """Writes what a command found in the format that was asked for. rich is imported on first use."""

    def __init__(self, format_: Format) -> None:
        self.format: Format = format_
        self.is_agent = format_ == "agent"
        self.is_json = format_ == "json" or self.is_agent
        """True when a document goes out in place of tables and sentences."""
        self.is_rich = format_ == "human" or (format_ == "auto" and sys.stdout.isatty())
        self._console: Console | None = None

    @property
    def width(self) -> int:
        """Columns of the terminal; of a pipe, as many as anything needs."""
        return self._rich().width if self.is_rich else 10**6

    @property
    def draws_blocks(self) -> bool:
        """True where block characters can be written."""
        return self.is_rich and self._rich().encoding.lower().startswith("utf")

    def json(self, value: Any, *, rows: str | None = None, columns: Sequence[str] = ()) -> None:
        """One indented JSON document on stdout; with the format agent its table, as `tsv.lines` makes it."""
        if self.is_agent:
            from keepstep.cli.drawing.tsv import lines

            for line in lines(changed(value, _strict), rows=rows, columns=columns):
                click.echo(line)
        else:
            click.echo(to_json(value, indent=2))

    def json_line(self, value: Any) -> None:
        """One JSON document on one line on stdout, at once."""
        click.echo(to_json(value))

    def line(self, *spans: Span) -> None:
        """One line on stdout of texts, each plain or with a style; control characters are escaped."""
        if self.is_rich:
            from keepstep.cli.drawing.table_drawing import styled

            self._rich().print(styled(spans), soft_wrap=False)
        else:
            click.echo("".join(clean(span if isinstance(span, str) else span[0]) for span in spans))

    def entry(self, head: Sequence[Span], body: Sequence[Span]) -> None:
        """One line of a heading and what belongs to it; on a terminal the latter folds below its own beginning."""
        if self.is_rich:
            for line in folded(head, body, self._rich()):
                self._rich().print(line, soft_wrap=True)
        else:
            self.line(*head, *body)

    def frame(self, blocks: Sequence[Block]) -> None:
        """Lines and tables, one below the other."""
        for block in blocks:
            if isinstance(block, Line):
                self.entry(block.head, block.body)
            else:
                self.table(block)

    def drawn(self, blocks: Sequence[Block]) -> Group:
        """The same for a live display on the terminal that `console` knows."""
        from rich.console import Group
        from rich.text import Text

        from keepstep.cli.drawing.table_drawing import DrawnTable

        console = self._rich()
        parts: list[Any] = []
        for block in blocks:
            if isinstance(block, Line):
                parts += folded(block.head, block.body, console) if block.head or block.body else [Text()]
            else:
                parts.append(DrawnTable(block))
        return Group(*parts)

    @property
    def console(self) -> Console:
        """The terminal, as rich knows it."""
        return self._rich()

    def note(self, text: str) -> None:
        """One line on stderr, beside the data."""
        click.echo(clean(text), err=True)

    def table(self, table: Table) -> None:
        """A table: fitted to a terminal's width, or all of it as aligned text."""
        if self.is_rich:
            from keepstep.cli.drawing.table_drawing import DrawnTable

            self._rich().print(DrawnTable(table))
        else:
            click.echo("\n".join(plain_lines(table)))

    @property
    def can_ask(self) -> bool:
        """True where a person can read what is asked, and what it is about, and answer."""
        return all(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))

    def agrees(self, question: str, *, nothing: str, way: str) -> bool:
        """The one question before something is changed: True when a person said yes.

        Nobody is asked where nobody could read the plan or the question, or answer; then, as after a no, `nothing` is
        said, with the way: "add --yes to" do what `way` calls it.
        """
        if self.is_json or not self.can_ask:
            self.note(f"dry run: {nothing}; add --yes to {way}")
            return False
        if click.confirm(question, err=True):
            return True
        self.note(nothing)
        return False

    @contextmanager
    def progress(self, what: str, total: int | None = None, *, unit: str = "") -> Generator[Progress]:
        """A progress bar over `total` bytes, or so many of a `unit`, on stderr; where nothing can be redrawn, a line
        now and then.
        """
        from keepstep.cli.drawing.progress import Lines, bar

        if redraws(sys.stderr):
            with bar(clean(what), total, unit) as progress:
                yield progress
        else:
            yield Lines(what, total, self.note, unit=unit)

    def _rich(self) -> Console:
        if self._console is None:
            from rich.console import Console

            colour = None if wants_colour(sys.stdout) or not sys.stdout.isatty() else True
            self._console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False, no_color=colour)
        return self._console


def to_json(value: Any, *, indent: int | None = None) -> str:
    """Strict JSON in ASCII: no NaN, and no character that a terminal would act on."""
    import json

    import msgspec

    try:
        text = json.dumps(value, allow_nan=False, default=str)
        strict = not re.search(_NO_TEXT, text)
    except (TypeError, ValueError):
        text, strict = "", False
    if not strict:  # a number, a name of a member, or bytes of a path that JSON lacks
        text = json.dumps(changed(value, _strict), allow_nan=False, default=lambda found: _strict(str(found)))
    # Indented by msgspec: what json itself indents it encodes in Python, ten times as slowly.
    return text if indent is None else msgspec.json.format(text, indent=indent)


_NO_TEXT = r"(?<!\\ud[89ab][0-9a-f]{2})\\udc[89a-f][0-9a-f]"
"""What Python makes of bytes of a path that are no UTF-8; no half of a character outside of the basic plane."""


def _strict(value: Any) -> Any:
    if isinstance(value, str):
        return valid_text(value)
    return finite_or_name(value) if isinstance(value, float) else value


def folded(head: Sequence[Span], body: Sequence[Span], console: Console) -> list[Text]:
    """Lines no wider than the terminal; where the heading takes most of it, the rest goes below."""
    from rich.text import Text

    from keepstep.cli.drawing.table_drawing import styled

    first, rest = styled(head), styled(body)
    room = console.width - first.cell_len
    if room >= min(rest.cell_len, console.width // 2):
        lines = rest.wrap(console, max(room, 1))
        return [first + lines[0], *(Text(" " * first.cell_len) + line for line in lines[1:])] if lines else [first]
    first.rstrip()
    below = rest.wrap(console, max(console.width - 4, 1))
    return [*first.wrap(console, console.width), *(Text("    ") + line for line in below)]
