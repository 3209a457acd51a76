"""The observed course: what a resumed training logs, compared with what an interrupted attempt had logged. Pure."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from keepstep.run.clocks import of_the_machine
from keepstep.run.history import Attempt, Point
from keepstep.strict import finite_or_name

WITNESSES = ("loss", "grad_norm")
"""What a Trainer logs of the training itself: while both come out equal, the weights do."""
SCHEDULED = frozenset(
    ("learning_rate", "epoch", "num_input_tokens_seen", "num_tokens", "total_flos", "eval_num_tokens")
)
"""Names whose values follow from the step alone: equal ones are no proof."""
SUMMARY = frozenset(("train_runtime", "train_loss"))
"""Names of the row that a Trainer logs at its end, of this process: it is not compared."""

INTERRUPTED = "the interrupted attempt"

Values = Mapping[str, float]
Span = tuple[int, int]
"""The first and the last step."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """The first value that came out otherwise; `course` False where loss and gradients stayed bit-equal."""

    step: int
    name: str
    before: float
    now: float
    course: bool = True

    def __str__(self) -> str:
        return f"{self.name} of step {self.step} was {self.before!r}, now {self.now!r}"

    def to_json(self) -> dict[str, Any]:
        """Plain values; numbers that JSON lacks by their names."""
        return {
            "step": self.step,
            "name": self.name,
            "before": finite_or_name(self.before),
            "now": finite_or_name(self.now),
            "course": self.course,
        }


@dataclass(frozen=True, slots=True)
class Course:
    """What the course of a resumed training was compared with, and how it came out.

    `due` are the first and the last step that the earlier attempt had logged, None where it had logged nothing to
    compare with; `equal` the first and the last that came out bit-equal, in `values` values. `through` is True where
    that attempt had trained through the checkpoint, False where it had been resumed from it as well; `whose` names it.
    """

    due: Span | None = None
    equal: Span | None = None
    values: int = 0
    through: bool = True
    whose: str = INTERRUPTED
    deviation: Deviation | None = None

    @property
    def proved(self) -> bool:
        """True when it came out equal to what an attempt had logged that was not interrupted at the checkpoint."""
        return self.equal is not None and self.through and not self.left

    @property
    def left(self) -> bool:
        """True when it is another course."""
        return self.deviation is not None and self.deviation.course

    def line(self, *, compared: bool) -> str:
        """What was observed, as a line of a receipt; `compared` where the state was."""
        return course_line(self.to_json(), compared=compared)

    def __str__(self) -> str:
        """What was observed, as a sentence."""
        if self.deviation is not None and self.deviation.course:
            equal = f" ({self.values} values of {_steps(self.equal)} came out bit-equal)" if self.equal else ""
            step = self.deviation.step
            return f"from step {step} on another course than that of {self.whose}: {self.deviation}{equal}"
        if self.equal is None and self.due is None:
            return "nothing logged to compare the course with"
        if self.equal is None:
            return f"what {self.whose} had logged of {_steps(self.due)} is compared with what is logged now"
        beside = f"; beside loss and gradients, {self.deviation}" if self.deviation else ""
        repeated = "" if self.through else ", which repeats it and proves no more"
        return f"{_steps(self.equal)} came out bit-equal to what {self.whose} had logged{repeated}{beside}"

    def to_json(self) -> dict[str, Any]:
        """Plain values; numbers that JSON lacks by their names."""
        return {
            "text": str(self),
            "proved": self.proved,
            "due": list(self.due) if self.due else None,
            "equal": list(self.equal) if self.equal else None,
            "values": self.values,
            "through": self.through,
            "whose": self.whose,
            "deviation": self.deviation.to_json() if self.deviation else None,
        }


def course_line(plain: Mapping[str, Any], *, compared: bool) -> str:
    """A course, given as plain values, as a line of a receipt."""
    if plain.get("proved"):
        return f"proved: {plain['text']}"
    nothing = not any(plain.get(name) for name in ("due", "equal", "deviation"))
    return f"compared state, {plain['text']}" if nothing and compared else f"course: {plain['text']}"


def _steps(span: Span | None) -> str:
    """`steps 101 to 112`, or `step 101`."""
    first, last = span or (0, 0)
    return f"step {first}" if first == last else f"steps {first} to {last}"


@dataclass(slots=True)
class Logged:
    """What an attempt logged, by step and name; a name that was logged several times at a step has several values."""

    begun: int = 0
    """The step that it is compared from: what was logged at this very step may have come before the save."""
    through: bool = True
    whose: str = INTERRUPTED
    rows: dict[int, dict[str, list[float]]] = field(default_factory=dict[int, dict[str, list[float]]])

    def add(self, step: int, values: Values) -> None:
        """Take what can be compared of one log call."""
        if values.keys() >= SUMMARY:
            return
        for name, value in values.items():
            if not of_the_machine(name):
                self.rows.setdefault(step, {}).setdefault(name, []).append(value)

    @property
    def due(self) -> Span | None:
        """The first and the last step behind the one that it begins at."""
        found = [step for step in self.rows if step > self.begun]
        return (min(found), max(found)) if found else None

    def goes_on(self, other: Logged) -> bool:
        """True when the other one logged some of the same values behind the beginning, and not one that differs."""
        common = [step for step in self.rows.keys() & other.rows.keys() if step > self.begun]
        pairs = [
            pair
            for step in common
            for name in self.rows[step].keys() & other.rows[step].keys() - SCHEDULED
            for pair in zip(self.rows[step][name], other.rows[step][name], strict=False)
        ]
        return bool(pairs) and all(same_bits(one, two) for one, two in pairs)

    def take_over(self, other: Logged) -> None:
        """Add what only the other one logged; one that trained through the checkpoint vouches for both."""
        if other.through and not self.through:
            self.through, self.whose = True, other.whose
        for step, names in other.rows.items():
            for name, values in names.items():
                self.rows.setdefault(step, {}).setdefault(name, values)


def logged_beyond(
    attempts: Sequence[Attempt], points: Sequence[Point], *, generation: int, step: int, exact: bool
) -> Logged:
    """What is to be compared with a training that goes on from the checkpoint of that generation and step.

    An attempt that trained through it is the one that counts; one that was resumed from it goes before where the
    settings are others by now (`exact` False), since its own may be the same. Further ones are added as far as they
    took the same course. `points` need to hold those from `step` on.
    """
    through = _through(attempts, generation)
    resumed = [one for one in reversed(attempts) if one.from_generation == generation]
    # What another one logged after it had been resumed with other settings is no measure for what has the same.
    order = [*through, *(one for one in resumed if one.level in (None, "exact"))] if exact else [*resumed, *through]
    logged = {one.number: Logged(step, one in through, _name(one, one in through)) for one in order}
    for point in points:
        if point.attempt in logged and point.step >= step:
            logged[point.attempt].add(point.step, point.values)
    found = [logged[one.number] for one in order if logged[one.number].due is not None]
    if found:
        return _joined(found)
    return logged[through[0].number] if through else Logged(step)


def _name(attempt: Attempt, through: bool) -> str:
    if not through:
        return "an earlier resume from here"
    return "the earlier attempt" if attempt.ended == "finished" else INTERRUPTED


def _joined(found: list[Logged]) -> Logged:
    """The first one, and what others add to it that took its course."""
    base, *rest = found
    for _ in rest:
        for other in rest:
            if base.goes_on(other):
                base.take_over(other)
    return base


def _through(attempts: Sequence[Attempt], generation: int) -> list[Attempt]:
    """The attempt that committed a generation: their numbers only grow, and each is given once."""
    known = [one for one in attempts if one.first_generation is not None and one.first_generation <= generation]
    return known[-1:]


class Observer:
    """Compares a training, log call by log call, with what was logged before it."""

    def __init__(self, logged: Logged) -> None:
        self._rows, self._begun = logged.rows, logged.begun
        self._last = max(logged.rows, default=-1)
        self._has_loss = any("loss" in names for names in logged.rows.values())
        self._witnessed = -1
        """The step up to which loss and gradients are known to be equal."""
        self._over = False
        self._given: Course | None = None
        self.course = Course(logged.due, through=logged.through, whose=logged.whose)

    def take(self, step: int, values: Values) -> Course | None:
        """Compare one log call; returns the course where there is something new to say of it: after the first match,
        when it is another one, and when there is nothing more to compare.
        """
        if self._over or values.keys() >= SUMMARY:
            return None
        if step > self._last:
            return self.end()
        pairs = list(self._pairs(step, values))
        unlike = [Deviation(step, name, before, now) for name, before, now in pairs if not same_bits(before, now)]
        of_course = [one for one in unlike if one.name in WITNESSES or not self._has_loss]
        if of_course:
            known = self.course.deviation
            first = known if known is not None and known.step < step else of_course[0]
            self.course = replace(self.course, deviation=replace(first, course=True))
            return self.end()
        if unlike and self.course.deviation is None:
            self.course = replace(self.course, deviation=replace(unlike[0], course=False))
        self._note_equal(step, [name for name, before, now in pairs if same_bits(before, now)])
        is_first = self._given is None and self.course.equal is not None and self.course.deviation is None
        return self._give() if is_first else None

    def end(self) -> Course | None:
        """Nothing more comes: returns the course where it was not given like this before."""
        self._over = True
        deviation = self.course.deviation
        if deviation is not None and self._witnessed < deviation.step:
            self.course = replace(self.course, deviation=replace(deviation, course=True))
        if self.course.equal is None and self.course.deviation is None:
            return None
        return self._give()

    def _give(self) -> Course | None:
        if self.course == self._given:
            return None
        self._given = self.course
        return self.course

    def _pairs(self, step: int, values: Values) -> Iterator[tuple[str, float, float]]:
        """Each name that both logged, with the value of then and of now."""
        row = self._rows.get(step, {})
        for name, now in values.items():
            if before := row.get(name):
                # At the checkpoint's own step some come from before the save, and need not be logged again.
                alike = [place for place, one in enumerate(before) if same_bits(one, now)]
                yield name, before.pop(alike[0] if alike and step <= self._begun else 0), now

    def _note_equal(self, step: int, names: list[str]) -> None:
        if "grad_norm" in names:
            self._witnessed = max(self._witnessed, step)
        if "loss" in names:  # of the weights before the step
            self._witnessed = max(self._witnessed, step - 1)
        telling = [name for name in names if name not in SCHEDULED]
        if telling:
            first = self.course.equal[0] if self.course.equal else step
            values = self.course.values + len(telling)
            self.course = replace(self.course, equal=(first, step), values=values)


def same_bits(one: float, other: float) -> bool:
    """True for the same bits, and for two that are no number."""
    return struct.pack("<d", one) == struct.pack("<d", other) or (math.isnan(one) and math.isnan(other))
