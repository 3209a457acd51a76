"""Tests of tables: fitting, plain text, colour."""

from __future__ import annotations

import io
import sys

import pytest

from keepstep.cli.drawing.render import Output, to_json
from keepstep.cli.drawing.tables import Cell, Column, Table, columns_of, plain_lines
from keepstep.cli.drawing.text import clean, shorten, wants_colour

TABLE = Table(
    (
        Column("Step", "right", essential=True),
        Column("Why", folds=True, minimum=10, essential=True),
        Column("State", telling=True),
        Column("Size", "right"),
    ),
    (
        (Cell.of("1"), Cell(("a reason that is long", "another")), Cell.of("same"), Cell.of("10 B")),
        (Cell.of("200"), Cell(()), Cell.of("same"), Cell.of("7 B")),
    ),
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _names(table: Table) -> list[str]:
    return [column.name for column in table.columns]


def test_the_last_columns_go_first_and_essential_ones_stay() -> None:
    assert _names(TABLE.fitted(200)) == ["Step", "Why", "State", "Size"]
    assert _names(TABLE.fitted(4 + 2 + 10 + 2 + 5 + 2 + 4)) == ["Step", "Why", "State", "Size"]
    assert _names(TABLE.fitted(4 + 2 + 10 + 2 + 5 + 2 + 3)) == ["Step", "Why", "State"]
    assert _names(TABLE.fitted(1)) == ["Step", "Why"]


def test_columns_that_tell_nothing_go() -> None:
    assert _names(TABLE.informative()) == ["Step", "Why", "Size"]
    bare = Table(TABLE.columns, ((Cell.of("1"), Cell(()), Cell.of("a"), Cell(())),))
    assert _names(bare.informative()) == ["Step", "Why"]


def test_plain_lines_are_aligned_and_whole() -> None:
    assert list(plain_lines(TABLE)) == [
        "Step  Why                             State  Size",
        "   1  a reason that is long; another  same   10 B",
        " 200  -                               same    7 B",
    ]


def test_wide_characters_take_two_columns() -> None:
    assert [columns_of(text) for text in ("abc", "検証", "e\u0301")] == [3, 4, 1]


def test_clean_keeps_letters_and_disarms_the_rest() -> None:
    assert clean("größe 検証 [b]") == "größe 検証 [b]"
    assert clean("a\x1b[2J\n\x9b\u202e\udc80") == "a\\x1b[2J\\n\\x9b\\u202e\\udc80"
    assert shorten("abcdef", 5) == "ab..."
    assert shorten("abcde", 5) == "abcde"


def test_colour_only_on_a_terminal_that_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour(Terminal())
    assert not wants_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_a_terminal_gets_colour_unless_no_color(monkeypatch: pytest.MonkeyPatch, no_color: str, coloured: bool) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm-256color")

    Output("auto").line(("damaged", "red"))

    assert ("\x1b[31m" in terminal.getvalue()) == coloured
    assert "damaged" in terminal.getvalue()


def test_human_into_a_pipe_has_tables_without_colour(capsys: pytest.CaptureFixture[str]) -> None:
    Output("human").table(TABLE)
    shown = capsys.readouterr().out
    assert "─" in shown
    assert "\x1b" not in shown


def test_json_is_strict_and_ascii() -> None:
    assert to_json({"a": [float("nan"), float("inf"), -float("inf")], "b": "\x9b"}) == (
        '{"a": ["NaN", "Infinity", "-Infinity"], "b": "\\u009b"}'
    )
