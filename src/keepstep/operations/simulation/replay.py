"""The retention rules replayed over a schedule: what each save leaves on disk, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from keepstep.errors import SettingsError
from keepstep.model import Checkpoint, FileEntry, Kind
from keepstep.operations.simulation.schedule import Schedule
from keepstep.retention import Metric, Outcome, Plan, Policy, make_plan

MIDNIGHT = datetime(2000, 1, 1, tzinfo=UTC)
"""When a replayed training begins: rules that count hours and days see whole ones from there."""
_LONGEST = 10**11


class Occasion(StrEnum):
    """Why a step is saved."""

    SCHEDULE = "due"
    NEW_BEST = "new best"


@dataclass(frozen=True, slots=True)
class Moment:
    """One save: its checkpoint, and the plan that was carried out once it was committed."""

    checkpoint: Checkpoint
    occasion: Occasion
    plan: Plan

    @property
    def kept(self) -> tuple[Checkpoint, ...]:
        """What lies on disk afterwards, by generation; of what was thinned, the weights."""
        return self.plan.left

    @property
    def most(self) -> tuple[Checkpoint, ...]:
        """What lies on disk before anything is removed: all that was kept, and the new one."""
        return tuple(decision.checkpoint for decision in self.plan.decisions)

    @property
    def removed(self) -> tuple[tuple[Checkpoint, str], ...]:
        """What went, each with the reason."""
        return tuple((d.checkpoint, "; ".join(d.reasons)) for d in self.plan.decisions if not d.stays)

    @property
    def thinned(self) -> tuple[tuple[Checkpoint, str], ...]:
        """What lost all but its weights now, each with the reason why these stay."""
        return tuple((d.checkpoint, "; ".join(d.reasons)) for d in self.plan.decisions if d.outcome is Outcome.THIN)


@dataclass(frozen=True, slots=True)
class Replay:
    """A schedule under a policy up to step `until`, one moment for each save."""

    policy: Policy
    schedule: Schedule
    until: int
    moments: tuple[Moment, ...]

    @property
    def on_disk(self) -> tuple[Checkpoint, ...]:
        """What lies on disk in the end, by generation."""
        return self.moments[-1].kept if self.moments else ()


def replay(
    policy: Policy,
    schedule: Schedule,
    values: Mapping[int, float],
    *,
    size: int = 0,
    weights: int = 0,
    seconds_per_step: float = 1.0,
    until: int | None = None,
) -> Replay:
    """Save as an attached trainer does, and let the real rules decide after each commit.

    `values` is the metric at evaluated steps (NaN and missing ones too). A step that is a new best is saved even when
    no save is due; a save without an evaluation of its own step is not ranked. `size` in bytes, and `weights` those of
    them that are left of a thinned one.
    """
    last = schedule.steps if until is None else min(until, schedule.steps)
    if last * seconds_per_step > _LONGEST:
        raise SettingsError("this training would take thousands of years", hint="Check the time of a step.")
    moments: list[Moment] = []
    on_disk: tuple[Checkpoint, ...] = ()
    for step, occasion in _occasions(policy.metric, schedule, values):
        if step > last:
            break
        moment = MIDNIGHT + timedelta(seconds=step * seconds_per_step)
        metrics = {policy.metric.name: values[step]} if policy.metric and step in values else {}
        parent = moments[-1].checkpoint.generation if moments else None
        files = (FileEntry("model.safetensors", weights, ""), FileEntry("optimizer.pt", size - weights, ""))
        number = len(moments) + 1
        new = Checkpoint("simulated", number, 0, parent, step, None, Kind.FULL, moment, metrics, files)
        plan = make_plan((*on_disk, new), policy, now=moment)
        moments.append(Moment(new, occasion, plan))
        on_disk = moments[-1].kept
    return Replay(policy, schedule, last, tuple(moments))


def _occasions(metric: Metric | None, schedule: Schedule, values: Mapping[int, float]) -> list[tuple[int, Occasion]]:
    found = dict.fromkeys(schedule.saves, Occasion.SCHEDULE)
    best: float | None = None
    for step in schedule.evaluations if metric else ():
        value = values.get(step)
        if metric is None or value is None or math.isnan(value):
            continue
        if best is None or math.isinf(best) or metric.better(value, best):
            best = value
            found.setdefault(step, Occasion.NEW_BEST)
    return sorted(found.items())
