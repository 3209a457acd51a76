"""Text on its way to a terminal: made harmless, shortened, and coloured where colour is wanted."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import IO, cast

import click


def clean(text: object) -> str:
    """Text without power over a terminal: control, direction and unassigned characters become escapes.

    Names, metrics, tags and events come from files that anybody may have written.
    """
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in plain)


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters, the cut marked with `...`."""
    return text if len(text) <= limit else text[: max(limit - 3, 0)] + "..."


def count(number: int, what: str) -> str:
    """`1 checkpoint`, `2 checkpoints`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def in_words(value: object) -> str:
    """A value as people write it: `a, b`, `name value`, `yes`; numbers with six digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        from keepstep.units import format_number

        return format_number(value)
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return ", ".join(f"{name} {in_words(one)}" for name, one in pairs if one is not None) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(in_words(one) for one in cast("Sequence[object]", value)) or "none"
    return "none" if value is None else str(value)


def redraws(stream: IO[str]) -> bool:
    """True where what was drawn can be drawn over: on a terminal that is no dumb one."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def wants_colour(stream: IO[str]) -> bool:
    """True on a terminal, unless NO_COLOR (https://no-color.org) is set or the terminal is a dumb one."""
    return redraws(stream) and not os.environ.get("NO_COLOR")


def paint(text: str, colour: str, stream: IO[str]) -> str:
    """Bold coloured text where the stream wants it."""
    return click.style(text, fg=colour, bold=True) if wants_colour(stream) else text
