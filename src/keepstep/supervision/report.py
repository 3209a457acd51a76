"""The report of a supervision that gave up: attempts, steps, reasons, what it quotes, what is safe on disk."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from keepstep.supervision.ends import Ending
from keepstep.supervision.progress import Safe
from keepstep.units import format_duration


def report(why: str, endings: Sequence[Ending], safe: Sequence[Safe], command: Sequence[str], log: str | None) -> str:
    """The report as text, several lines."""
    return "\n".join(_lines(why, endings, safe, command, log))


def _lines(
    why: str, endings: Sequence[Ending], safe: Sequence[Safe], command: Sequence[str], log: str | None
) -> Iterator[str]:
    yield f"gave up: {why}"
    for number, ending in enumerate(endings, start=1):
        if len(endings) > _MOST and _FIRST < number <= len(endings) - (_MOST - _FIRST):
            if number == _FIRST + 1:
                yield f"  … {len(endings) - _MOST} more"
            continue
        step = "" if ending.step is None else f", step {ending.step}"
        yield f"attempt {number} ({format_duration(ending.seconds)}{step}): {ending.kind}: {ending.reason}"
    if quote := endings[-1].quote:
        yield "it said:"
        yield from (f"    {line}" for line in quote.splitlines())
    if safe:
        yield "safe on disk:"
        yield from (f"    {one.describe()}" for one in safe)
    else:
        yield "no run of keepstep's is known: what this command saved by itself is as it left it"
    if log is not None:
        yield f"all that it said: {log}"
    line = shlex.join(command)
    if len(line) <= _LONGEST and "\n" not in line:
        yield f"once the cause is mended, the same command goes on: keepstep run … -- {line}"


_LONGEST = 300
"""Characters of a command that is repeated."""
_MOST, _FIRST = 12, 3
"""Attempts that are listed, and how many of them are the first ones."""
