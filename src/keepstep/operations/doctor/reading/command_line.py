"""A command line: its words, the options that a program takes, and the values that the words give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keepstep.operations.doctor.found import Where
from keepstep.operations.doctor.reading.coercion import coerced
from keepstep.operations.doctor.reading.values import COMMAND_LINE, Record
from keepstep.operations.doctor.settings import Argument, Given, Source, Unread

UNKNOWN = "\ufffd"
"""Stands in a word for what only the shell would know."""
ASK = f"{COMMAND_LINE} (give it behind --, or the shell script that starts this)"
"""Why something is not known, and what would tell."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word, where it stands, and what may say otherwise than a default that the shell put into it."""

    text: str
    where: Where | None = None
    unless: str = ""

    @property
    def known(self) -> bool:
        return UNKNOWN not in self.text


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What a program is given; `where` is the command that starts it.

    `attached` are the options of a `keepstep run --attach` that it stands behind, None where there is none.
    """

    words: tuple[Word, ...]
    where: Where
    attached: Mapping[str, Word] | None = None

    @classmethod
    def typed(cls, words: Sequence[str]) -> CommandLine:
        """That of the person who asks: what stands behind `--`."""
        where = Where(COMMAND_LINE)
        return cls(tuple(Word(word, where) for word in words), where)

    def __add__(self, other: CommandLine) -> CommandLine:
        return CommandLine(self.words + other.words, self.where, self.attached)


@dataclass(frozen=True, slots=True)
class Option:
    """An option of a program: the field that it sets, how it is written, its default, the kind of its value.

    `present` is what it is worth where it stands alone, None where it needs a value; `many` takes all words behind it.
    `inner` are the options of a nested dataclass.
    """

    name: str
    flags: tuple[str, ...]
    default: Argument
    kind: str = "any"
    present: Any = None
    optional_value: bool = False
    many: bool = False
    inner: Options | None = None


@dataclass(slots=True)
class Options:
    """All options of a program, or of one dataclass.

    `loose`: flags with a dash and with an underscore are the same, as for all parsers but argparse's. `free`: every
    other flag is a field, too, of a class that is not in the file; `kind` is that class.
    """

    options: list[Option] = field(default_factory=list[Option])
    loose: bool = True
    free: bool = False
    kind: str = ""

    def option(self, flag: str) -> Option | None:
        """The option that a flag stands for; a beginning is enough for argparse where it is the only one."""
        wanted = _plain(flag) if self.loose else flag
        by_flag = {(_plain(one) if self.loose else one): option for option in self.options for one in option.flags}
        if wanted in by_flag:
            return by_flag[wanted]
        if self.loose or not flag.startswith("--"):
            return None
        near = {option.name: option for one, option in by_flag.items() if one.startswith(flag)}
        return next(iter(near.values())) if len(near) == 1 else None

    def record(self, line: CommandLine | None) -> tuple[Record, list[Word]]:
        """The values of all options, and the flags that are none of them; without a line, defaults are left open."""
        record = Record(kind=self.kind, rest=ASK if self.free and line is None else "")
        for option in self.options:
            record.fields[option.name] = self._default(option, line)
        if line is None:
            return record, []
        return record, self._take(record, list(line.words))

    def _default(self, option: Option, line: CommandLine | None) -> Argument:
        if option.inner is not None:
            return Given(option.inner.record(line and replace(line, words=()))[0])
        default = option.default
        if isinstance(default, Given) and default.source is not Source.FILE:
            return replace(default, source=Source.DEFAULT, unless="" if line is not None else COMMAND_LINE)
        return default

    def _take(self, record: Record, words: list[Word]) -> list[Word]:
        unknown: list[Word] = []
        positional = [option for option in self.options if not option.flags]
        while words:
            word = words.pop(0)
            if not _is_flag(word.text):
                if positional:
                    option = positional[0] if positional[0].many else positional.pop(0)
                    record.fields[option.name] = _value([word], option.kind, option.many)
                continue
            flag, equals, text = word.text.partition("=")
            behind = [] if equals else _values_behind(words)
            took = self._set(record, _Flag(flag, word, [replace(word, text=text)] if equals else behind))
            if took is None:
                unknown.append(replace(word, text=flag))
            del words[: len(behind) if took is None else min(took, len(behind))]
        return unknown

    def _set(self, record: Record, flag: _Flag) -> int | None:
        """Set the field that a flag stands for, and say how many words it takes; None where there is no such field."""
        option = self.option(flag.text)
        if option is None:
            took = self._set_inner(record, flag)
            return took if took is not None else self._set_free(record, flag)
        if option.present is not None and not (flag.values and (flag.joined or option.optional_value)):
            opposite = _plain(flag.text).startswith("no_") and option.present is True
            value = not option.present if opposite else option.present
            record.fields[option.name] = Given(value, 0, Source.COMMAND_LINE, flag.word.where, flag.word.unless)
            return 0
        taken = flag.values if option.many else flag.values[:1]
        record.fields[option.name] = _value(taken, option.kind, option.many) if taken else Unread(flag.text)
        return len(taken)

    def _set_inner(self, record: Record, flag: _Flag) -> int | None:
        """`--training.save-steps 5` of a nested dataclass."""
        name, dot, rest = _plain(flag.text).partition(".")
        given = record.fields.get(name)
        option = next((one for one in self.options if one.name == name), None)
        if not dot or option is None or option.inner is None or not isinstance(given, Given):
            return None
        return option.inner._set(given.value, replace(flag, text="--" + rest))

    def _set_free(self, record: Record, flag: _Flag) -> int | None:
        """A field of a class that is not in the file."""
        if not self.free or not flag.text.startswith("--"):
            return None
        alone = Given(True, 0, Source.COMMAND_LINE, flag.word.where)
        record.fields[_plain(flag.text)] = _value(flag.values[:1], "raw", many=False) if flag.values else alone
        return len(flag.values[:1])


@dataclass(frozen=True, slots=True)
class _Flag:
    """A flag as it stands in a command line, with the words up to the next one."""

    text: str
    word: Word
    values: list[Word]

    @property
    def joined(self) -> bool:
        """`--flag=value`, in one word."""
        return "=" in self.word.text


def free_values(line: CommandLine) -> dict[str, Argument]:
    """The options of a program that is not there to be read, by name: texts, and True for flags that stand alone."""
    record, _ = Options(free=True).record(line)
    return record.fields


def _value(words: Sequence[Word], kind: str, many: bool) -> Argument:
    first = words[0]
    if not all(word.known for word in words):
        shown = " ".join(word.text for word in words).replace(UNKNOWN, "$...")
        return Unread(shown, 0, cause="the shell's variables")
    values = [coerced(word.text, kind) for word in words]
    unless = next((word.unless for word in words if word.unless), "")
    source = Source.DEFAULT if unless else Source.COMMAND_LINE
    return Given(values if many else values[0], 0, source, first.where, unless)


def _values_behind(words: Sequence[Word]) -> list[Word]:
    """The words up to the next flag."""
    found: list[Word] = []
    for word in words:
        if _is_flag(word.text):
            break
        found.append(word)
    return found


def _is_flag(text: str) -> bool:
    return text.startswith("-") and len(text) > 1 and not text[1].isdigit() and not text.startswith("-.")


def _plain(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")
