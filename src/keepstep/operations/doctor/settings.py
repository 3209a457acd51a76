"""A training's arguments as far as they are known: given, left to their default, or not to be read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from keepstep.operations.doctor.found import Where

DEFAULTS: dict[str, Any] = {
    "output_dir": "trainer_output", "eval_strategy": "no", "eval_steps": None, "save_strategy": "steps",
    "save_steps": 500, "save_total_limit": None, "save_only_model": False, "enable_jit_checkpoint": False,
    "load_best_model_at_end": False, "metric_for_best_model": None, "greater_is_better": None,
    "resume_from_checkpoint": None, "num_train_epochs": 3.0, "max_steps": -1, "seed": 42, "data_seed": None,
    "report_to": "none", "hub_token": None, "ignore_data_skip": False, "logging_steps": 500,
}  # fmt: skip
"""What transformers' TrainingArguments take when nothing is said."""
TRL_DEFAULTS = {"logging_steps": 10}
"""Where TRL's configs differ."""
OLD_NAMES = {"evaluation_strategy": "eval_strategy", "push_to_hub_token": "hub_token"}
"""Names that older versions of transformers take."""


MATTER = frozenset(DEFAULTS) | {"optim"}
"""Arguments that a rule asks for."""


class NotKnown(Exception):
    """A rule asked for something that nobody can know here; the message names it."""


class Source(StrEnum):
    """Where a value comes from: the text itself, what holds where nobody says anything, the command line, a file."""

    LITERAL = "literal"
    DEFAULT = "default"
    COMMAND_LINE = "command line"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Given:
    """A value as it was given, and the line where it is used; `line` 0 where there is none.

    `where` is where it stands, when that is elsewhere. `unless` names what may still say otherwise: the command line,
    or the environment; empty where nothing does.
    """

    value: Any
    line: int = 0
    source: Source = Source.LITERAL
    where: Where | None = None
    unless: str = ""


@dataclass(frozen=True, slots=True)
class Unread:
    """An expression that only running the program could evaluate.

    `varies` says that it will be another one at every start (a clock, a random number). `cause` is the part of it that
    is not known, in words; others may wait for the same.
    """

    text: str
    line: int = 0
    varies: bool = False
    cause: str = ""


Argument = Given | Unread


@dataclass(frozen=True, slots=True)
class Settings:
    """Training arguments by name. What is not among them has its default when `complete`, else it is not known.

    `unless` names what may say otherwise than such a default, empty where nothing does. Names that are asked for are
    added to `asked`, where that is a set.
    """

    values: Mapping[str, Argument] = field(default_factory=dict[str, Argument])
    complete: bool = True
    trl: bool = False
    why_incomplete: str = ""
    unless: str = ""
    asked: set[str] | None = field(default=None, compare=False)

    def __getitem__(self, name: str) -> Any:
        """The value in force. Raises NotKnown."""
        if self.asked is not None:
            self.asked.add(name)
        found = self.values.get(name)
        if isinstance(found, Given):
            return found.value
        if isinstance(found, Unread):
            raise NotKnown(self._missing(name, found))
        if not self.complete:
            raise NotKnown(self.why_incomplete or name)
        return TRL_DEFAULTS[name] if self.trl and name in TRL_DEFAULTS else DEFAULTS[name]

    def asking(self) -> Settings:
        """The same, which remembers what it is asked for."""
        return replace(self, asked=set())

    def given(self, name: str) -> bool:
        """True when something was said about it, readable or not; raises NotKnown where that is not known."""
        if self.asked is not None:
            self.asked.add(name)
        if name in self.values:
            return True
        if not self.complete:
            raise NotKnown(self.why_incomplete or name)
        return False

    def word(self, name: str) -> str:
        """A setting that is one of a few words (`no`, `steps`, `epoch`, `best`); YAML reads a bare `no` as false."""
        value = self[name]
        return "no" if value is False or value is None else str(getattr(value, "value", value)).lower()

    def number(self, name: str) -> float:
        """A setting that is a number. Raises NotKnown also where it is none: the training will say so itself."""
        value = self[name]
        try:
            number = float("nan" if isinstance(value, bool) else value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise NotKnown(f"{name}={value!r}")
        return number

    def line(self, name: str) -> int:
        """Where it was given, 0 where it was not."""
        found = self.values.get(name)
        return found.line if found else 0

    @property
    def eval_steps(self) -> float:
        """Steps between two evaluations, or a part of the training below 1; by default as often as it logs."""
        return self.number("logging_steps" if self["eval_steps"] is None else "eval_steps")

    @property
    def limit(self) -> int | None:
        """`save_total_limit` where it limits anything."""
        if self["save_total_limit"] is None:
            return None
        value = self.number("save_total_limit")
        return int(value) if value >= 1 else None

    @property
    def unread(self) -> tuple[str, ...]:
        """`name=expression (line 3)` for each that can't be read and matters; those that wait for the same together."""
        found = [(name, value) for name, value in self.values.items() if isinstance(value, Unread) and name in MATTER]
        return tuple(dict.fromkeys(self._missing(name, value) for name, value in found))

    def _missing(self, name: str, unread: Unread) -> str:
        """What is not known, in words: the same for all settings that wait for it."""
        names = [
            other
            for other, value in self.values.items()
            if unread.cause and isinstance(value, Unread) and value.cause == unread.cause and other in MATTER
        ]
        if len(names) > 1:
            return f"{', '.join(sorted(names))}, from {unread.cause}"
        return f"{name}={unread.text}" + (f" (line {unread.line})" if unread.line else "")
