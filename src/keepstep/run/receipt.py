"""The receipt of a resume: exact, equivalent or approximate, each with its reasons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

Fingerprint = Mapping[str, Any]
"""Sections (arguments, data, model, optimizer, versions, device) of names and plain values."""


class Exactness(StrEnum):
    """How a resumed training relates to one that was never interrupted.

    EXACT: the same bits. EQUIVALENT: the same course; last bits, logs or cadence may differ.
    APPROXIMATE: another course from here on.
    """

    EXACT = "exact"
    EQUIVALENT = "equivalent"
    APPROXIMATE = "approximate"


_ORDER = list(Exactness)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a resume is no better than `level`, as a sentence."""

    level: Exactness
    text: str


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that differs between the checkpoint and now; a missing side is None."""

    section: str
    name: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name} was {_short(self.before)}, now {_short(self.now)}"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was resumed from, how exactly, and why."""

    step: int
    path: str
    reasons: tuple[Reason, ...] = ()
    verified: bool = True
    passed_over: tuple[str, ...] = ()
    compared: str = ""
    """What of the state was compared after loading, as a sentence; empty where nothing was."""

    @property
    def level(self) -> Exactness:
        """The weakest level of all reasons; exact without any."""
        return max((reason.level for reason in self.reasons), key=_ORDER.index, default=Exactness.EXACT)

    def lines(self) -> list[str]:
        """The receipt for people: a headline, then one line per reason."""
        checked = "every byte verified" if self.verified else "NOT verified: it has no manifest"
        head = f"Resumed from step {self.step} ({self.level.value}; {checked})"
        passed = [f"passed over: {text}" for text in self.passed_over]
        compared = [self.compared] if self.compared else []
        return [head, *compared, *passed, *(f"{reason.level.value}: {reason.text}" for reason in self.reasons)]

    def to_json(self) -> dict[str, Any]:
        """Plain values for the event log."""
        return {
            "step": self.step,
            "path": self.path,
            "level": self.level.value,
            "verified": self.verified,
            "reasons": [{"level": r.level.value, "text": r.text} for r in self.reasons],
            "passed_over": list(self.passed_over),
            "compared": self.compared,
        }

    def __str__(self) -> str:
        return "\n".join(self.lines())


def fingerprint_differences(before: Fingerprint, now: Fingerprint) -> Iterator[Difference]:
    """Every value that differs, section by section, in the order of names."""
    for section in sorted(set(before) | set(now)):
        old, new = _section(before, section), _section(now, section)
        for name in sorted(set(old) | set(new)):
            if old.get(name) != new.get(name):
                yield Difference(section, name, old.get(name), new.get(name))


def reasons_for(found: Iterator[Difference], level_of: Callable[[Difference], Exactness | None]) -> tuple[Reason, ...]:
    """A reason for each difference that matters; `level_of` returns None for one that does not."""
    return tuple(Reason(level, str(difference)) for difference in found if (level := level_of(difference)) is not None)


def _section(fingerprint: Fingerprint, section: str) -> Mapping[str, Any]:
    value = fingerprint.get(section)
    return cast(Mapping[str, Any], value) if isinstance(value, Mapping) else {}


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
