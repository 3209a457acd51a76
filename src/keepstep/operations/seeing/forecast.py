"""What a run will take on disk at its end, by its policy, its last step and how often it saved so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace

from keepstep.model import Checkpoint, Damage, Kind, State
from keepstep.retention import Before, Metric, Policy, fit, make_plan
from keepstep.units import format_size

MOST_PLANNED = 256
"""Saves that are played through by the rules; what follows goes on as the second half of them did."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Bytes of the run's checkpoints and of what lies aside, at its end and at most, with the save in flight.

    `saves_left` until the last step; `fits` is False where the budget or the free space is exceeded; `full_at` is the
    step of the save that there is no room for.
    """

    at_end: int
    peak: int
    per_checkpoint: int
    saves_left: int
    fits: bool
    full_at: int | None
    verdict: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; sizes in bytes."""
        return {
            "at_end_bytes": self.at_end,
            "peak_bytes": self.peak,
            "per_checkpoint_bytes": self.per_checkpoint,
            "saves_left": self.saves_left,
            "fits": self.fits,
            "full_at_step": self.full_at,
            "verdict": self.verdict,
        }


@dataclass(frozen=True, slots=True)
class Ahead:
    """What is known of the rest of a training: steps in all, steps between saves, the present step, seconds a step."""

    max_steps: int
    every: int
    step: int
    pace: float | None = None

    @property
    def saves(self) -> tuple[int, ...]:
        """Steps still to be saved: by the cadence, and the last one."""
        first = self.step - self.step % self.every + self.every
        found = tuple(range(first, self.max_steps + 1, self.every))
        return found if not self.max_steps % self.every or self.step >= self.max_steps else (*found, self.max_steps)


def forecast(
    checkpoints: Sequence[Checkpoint],
    policy: Policy,
    ahead: Ahead,
    *,
    free_bytes: int,
    budget: int | None = None,
    aside: Sequence[Checkpoint] = (),
    pinned: frozenset[int] = frozenset(),
    held_before: Mapping[Before, str] | None = None,
    now: datetime | None = None,
) -> Forecast | None:
    """The disk use until the last step, None where nothing was saved yet: how large a checkpoint is, is not known then.

    Each save is as large as the newest whole one. The metric is not known, so two courses are played through, one where
    every save is the best and one where none is, and the larger use counts. A budget is applied as in training.
    """
    whole = [checkpoint for checkpoint in checkpoints if checkpoint.kind is Kind.FULL] or list(checkpoints)
    if not whole:
        return None
    model, used = whole[-1], sum(checkpoint.size_bytes for checkpoint in (*checkpoints, *aside))
    saves = ahead.saves
    courses = [
        _Course(tuple(checkpoints), tuple(aside), policy, budget, pinned, held_before or {}, sign).play(
            saves, model, now or datetime.now(UTC), ahead.pace or 1.0, used
        )
        for sign in (1, -1)
    ]
    at_end = max(course[-1] for course in courses) if saves else used
    peaks = [max(course) + model.size_bytes * bool(saves) for course in courses]
    peak = max(peaks) if saves else used
    room = used + free_bytes
    full_at = _full_at(saves, courses, model.size_bytes, room)
    over = budget is not None and at_end > budget
    verdict = _verdict(at_end, peak, room, full_at, budget) if saves or over else "No save is left."
    return Forecast(at_end, peak, model.size_bytes, len(saves), full_at is None and not over, full_at, verdict)


@dataclass(frozen=True, slots=True)
class _Course:
    """One course of the metric: better with every save (1), or never again (-1)."""

    on_disk: tuple[Checkpoint, ...]
    aside: tuple[Checkpoint, ...]
    policy: Policy
    budget: int | None
    pinned: frozenset[int]
    held_before: Mapping[Before, str]
    sign: int

    def play(self, saves: Sequence[int], model: Checkpoint, now: datetime, pace: float, used: int) -> list[int]:
        """Bytes that are left before the first save and after each."""
        left, aside, found = self.on_disk, self.aside, [used]
        generation = max(checkpoint.generation for checkpoint in left)
        values = self._values(len(saves))
        began = saves[0] if saves else 0
        for number, step in enumerate(saves[:MOST_PLANNED]):
            at = now + timedelta(seconds=min((step - began) * pace, 10**10))
            generation += 1
            metric = self.policy.metric
            metrics = {metric.name: values[number]} if metric else {}
            new = replace(
                model, generation=generation, step=step, created=at, metrics=metrics, parent=None, kind=Kind.FULL,
                lost=(), damage=Damage.NONE,
            )  # fmt: skip
            plan = make_plan(
                (*left, new), self.policy, aside=aside, now=at, pinned=self.pinned, held_before=self.held_before
            )
            if self.budget is not None:
                plan = fit(plan, self.budget, metric, why="budget")
            left = tuple(one for one in plan.left if one.state is State.COMMITTED)
            aside = tuple(one for one in plan.left if one.state is not State.COMMITTED)
            found.append(sum(checkpoint.size_bytes for checkpoint in plan.left))
        more = len(saves) - MOST_PLANNED
        if more > 0:
            slope = (found[-1] - found[MOST_PLANNED // 2]) / (MOST_PLANNED - MOST_PLANNED // 2)
            last = found[-1]
            found += [round(last + slope * number) for number in range(1, more + 1)]
        return found

    def _values(self, count: int) -> list[float]:
        metric = self.policy.metric
        if metric is None:
            return []
        known = [value for c in self.on_disk if (value := _value(c, metric)) is not None]
        better = -1.0 if metric.mode == "min" else 1.0
        start = (min if metric.mode == "min" else max)(known, default=0.0)
        worst = (max if metric.mode == "min" else min)(known, default=0.0)
        base = start if self.sign > 0 else worst
        return [base + self.sign * better * (number + 1) for number in range(count)]


def _value(checkpoint: Checkpoint, metric: Metric) -> float | None:
    value = metric.value(checkpoint.metrics)
    return value if value is not None and abs(value) < 10**15 else None


def _full_at(saves: Sequence[int], courses: list[list[int]], size: int, room: int) -> int | None:
    """The first save that finds no room beside what lies there."""
    for number, step in enumerate(saves):
        if max(course[number] for course in courses) + size > room:
            return step
    return None


def _verdict(at_end: int, peak: int, room: int, full_at: int | None, budget: int | None) -> str:
    if full_at is not None:
        need = f"up to {format_size(peak)} would be needed, and there is room for {format_size(room)}"
        return f"The disk is full at step {full_at:,}: {need}."
    if budget is not None and at_end > budget:
        return f"{format_size(at_end)} stay at the end, more than the budget of {format_size(budget)}."
    text = f"It fits: {format_size(at_end)} at the end, {format_size(peak)} at most, room for {format_size(room)}"
    return f"{text}, within the budget of {format_size(budget)}." if budget is not None else f"{text}."
