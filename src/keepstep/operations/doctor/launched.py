"""A training that `keepstep run --attach` starts: it is managed, whatever its script says of that."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from keepstep.operations.doctor.facts import Facts
from keepstep.operations.doctor.reading.command_line import UNKNOWN, CommandLine, Word
from keepstep.operations.doctor.settings import Argument, Given, Source, Unread

_OPTIONS = ("keep", "metric", "budget", "save_every")


def launched(facts: Facts, line: CommandLine | None) -> Facts:
    """The facts of a training as this command starts it. Who attaches by himself is left alone."""
    if line is None or line.attached is None or facts.attached:
        return facts
    options: dict[str, Any] = {name: _given(word) for name, word in line.attached.items() if name in _OPTIONS}
    return replace(facts, attached=True, resume=tuple(map(_resumed, facts.resume)), **options)


def _given(word: Word) -> Argument:
    if not word.known:
        return Unread(word.text.replace(UNKNOWN, "$..."), cause="the shell's variables")
    return Given(word.text, word.where.line if word.where else 0, Source.COMMAND_LINE, word.where, word.unless)


def _resumed(given: Argument) -> Argument:
    """What `train()` is given, None and True being "auto"."""
    if isinstance(given, Given) and (given.value is None or str(given.value).strip().lower() == "true"):
        return replace(given, value="auto")
    return given
