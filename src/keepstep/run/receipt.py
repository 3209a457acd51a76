"""The receipt of a resume: exact, equivalent or approximate, with its reasons; proved, compared or inferred."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, cast

from keepstep.run.course import Course, course_line
from keepstep.units import format_duration, format_size

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


class Evidence(StrEnum):
    """What `Exactness` is known from.

    PROVED: the course was observed: what an interrupted attempt had logged came out again, bit for bit. COMPARED: the
    state in memory, after loading, equals what was saved. INFERRED: from the files' bytes and the settings alone.
    """

    PROVED = "proved"
    COMPARED = "compared"
    INFERRED = "inferred"


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
class Brought:
    """A checkpoint that came from elsewhere before the resume: the address without secrets, its bytes, how many seconds
    that took, and what was passed over there for which damage.
    """

    origin: str
    step: int
    generation: int
    size_bytes: int
    seconds: float
    passed_over: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values: bytes, seconds."""
        return {
            "origin": self.origin,
            "step": self.step,
            "generation": self.generation,
            "size_bytes": self.size_bytes,
            "seconds": round(self.seconds, 3),
            "passed_over": list(self.passed_over),
        }


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was resumed from, how exactly, why, and what that is known from.

    `compared` says what state was compared with what was saved, and is empty where none was; `course` how the values
    that are logged since came out beside those of an interrupted attempt, None while nothing was looked for. `brought`
    says where the checkpoint came from, where it was not here.
    """

    step: int
    path: str
    reasons: tuple[Reason, ...] = ()
    verified: bool = True
    passed_over: tuple[str, ...] = ()
    compared: str = ""
    course: Course | None = None
    brought: Brought | None = None

    @property
    def level(self) -> Exactness:
        """The weakest level of all reasons; exact without any."""
        return max((reason.level for reason in self.reasons), key=_ORDER.index, default=Exactness.EXACT)

    @property
    def evidence(self) -> Evidence:
        """What the level is known from."""
        if self.course is not None and self.course.proved:
            return Evidence.PROVED
        return Evidence.COMPARED if self.compared else Evidence.INFERRED

    def observed(self, course: Course, likely: Sequence[str] = ()) -> Receipt:
        """The receipt once so much of the course was seen.

        What said exact is corrected where values came out otherwise, with the `likely` causes; where settings or
        versions are others that is no news, and the receipt stays.
        """
        deviation = course.deviation
        if deviation is None or self.level is not Exactness.EXACT:
            return replace(self, course=course)
        causes = f"; likely: {' or '.join(likely)}" if likely else ""
        if course.left:
            reason = Reason(Exactness.APPROXIMATE, f"{course}{causes}")
        else:
            reason = Reason(Exactness.EQUIVALENT, f"{deviation}, while loss and gradients are the same")
        return replace(self, course=course, reasons=(*self.reasons, reason))

    def lines(self) -> list[str]:
        """The receipt for people: a headline, then one line per reason, then what was compared."""
        return receipt_lines(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Plain values for the event log."""
        return {
            "step": self.step,
            "path": self.path,
            "level": self.level.value,
            "evidence": self.evidence.value,
            "verified": self.verified,
            "reasons": [{"level": r.level.value, "text": r.text} for r in self.reasons],
            "passed_over": list(self.passed_over),
            "compared": self.compared,
            "course": None if self.course is None else self.course.to_json(),
            "brought": None if self.brought is None else self.brought.to_json(),
        }

    def __str__(self) -> str:
        return "\n".join(self.lines())


def receipt_lines(plain: Mapping[str, Any]) -> list[str]:
    """A receipt, given as plain values, for people. Raises KeyError and TypeError for what is none."""
    checked = "every byte verified" if plain["verified"] else "NOT verified: it has no manifest"
    evidence, compared, course = plain.get("evidence", "inferred"), plain.get("compared"), plain.get("course")
    head = f"Resumed from step {plain['step']} ({plain['level']}, {evidence}; {checked})"
    reasons = [f"{reason['level']}: {reason['text']}" for reason in plain["reasons"]]
    brought = brought_lines(plain.get("brought"))
    lines = [head, *brought, *(f"passed over: {text}" for text in plain["passed_over"]), *reasons]
    if compared:
        lines.append(f"compared: {compared}")
    if course and not any(course["text"] in reason for reason in reasons):
        lines.append(course_line(course, compared=bool(compared)))
    return lines


def brought_lines(plain: Mapping[str, Any] | None) -> list[str]:
    """Where a checkpoint came from, and what was passed over there; nothing of one that was here."""
    if not plain:
        return []
    took = f"{format_size(plain['size_bytes'])} in {format_duration(plain['seconds'])}"
    line = f"brought here from the mirror {plain['origin']}: step {plain['step']}, {took}, every byte compared"
    return [line, *(f"passed over there: {text}" for text in plain["passed_over"])]


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
