"""One run at a glance: whether it trains, how far it is, what is best, what it takes on disk."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Any

from keepstep import layout
from keepstep.model import Checkpoint, parse_name
from keepstep.operations.seeing.chronicle import Past
from keepstep.operations.seeing.curves import BEFORE, Curves
from keepstep.retention import Metric, rank
from keepstep.run import Run
from keepstep.stores import Stamp
from keepstep.strict import finite_or_name

ELSEWHERE = timedelta(hours=1)
"""For how long a lock of another host, whose processes nobody can ask for here, is believed without a sign of life."""
RECENT = 20
"""Saves from which the cadence is told."""


class Activity(StrEnum):
    """What a run is doing: `new` has no checkpoint and no training.

    Of those that ended before their last step, `stopped` ended at a signal, or nothing says how; `failed` with an
    error; `killed` without a word: its history has no ending, and nobody trains.
    """

    TRAINING = "training"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    KILLED = "killed"
    NEW = "new"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Course:
    """How far the training of a run came, as its log of metrics says: None where it does not.

    `ended` is how the last attempt ended ("finished", "stopped", "failed"), None when nothing says so; `begun` is True
    where the history knows of an attempt, which says how it ended unless it was killed.
    """

    step: int | None = None
    max_steps: int | None = None
    ended: str | None = None
    begun: bool = False

    @classmethod
    def of(cls, curves: Curves) -> Course:
        """The course that a run's curves lie on."""
        last = curves.spans[-1].attempt if curves.spans else None
        ended, begun = (last.ended, last.number != BEFORE) if last else (None, False)
        return cls(curves.last_step, curves.max_steps, ended, begun)


@dataclass(frozen=True, slots=True)
class Overview:
    """The figures of one run; sizes in bytes, `size_bytes` of its committed checkpoints."""

    activity: Activity
    step: int | None
    max_steps: int | None
    metric: Metric | None
    best: Checkpoint | None
    latest: Checkpoint | None
    checkpoints: int
    size_bytes: int
    free_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines: times in ISO 8601 UTC, non-finite metrics as strings."""
        metric, best, latest = self.metric, self.best, self.latest
        value = metric.value(best.metrics) if metric and best else None
        return {
            "state": self.activity.value,
            "step": self.step,
            "max_steps": self.max_steps,
            "metric": None if metric is None else {"name": metric.name, "mode": metric.mode},
            "best": None
            if best is None or value is None
            else {"step": best.step, "value": finite_or_name(value), "generation": best.generation},
            "latest": None if latest is None else {"step": latest.step, "generation": latest.generation},
            "checkpoints": self.checkpoints,
            "size_bytes": self.size_bytes,
            "free_bytes": self.free_bytes,
            "last_commit": None if latest is None else latest.created.astimezone(UTC).isoformat(),
        }


def overview(run: Run, checkpoints: Sequence[Checkpoint], course: Course) -> Overview:
    """The figures of a run from a listing of its checkpoints that was taken a moment ago. Raises OSError."""
    metric = run.policy.metric
    ranked = rank(checkpoints, metric) if metric else ()
    best = ranked[0] if ranked else None
    if metric and best and math.isnan(metric.value(best.metrics) or 0.0):
        best = None
    latest = checkpoints[-1] if checkpoints else None
    step = max((s for s in (course.step, latest.step if latest else None) if s is not None), default=None)
    return Overview(
        activity=activity(run, step, course),
        step=step,
        max_steps=course.max_steps,
        metric=metric,
        best=best,
        latest=latest,
        checkpoints=len(checkpoints),
        size_bytes=sum(checkpoint.size_bytes for checkpoint in checkpoints),
        free_bytes=run.store.room().free_bytes,
    )


def activity(run: Run, step: int | None, course: Course) -> Activity:
    """What the run is doing, told without touching its lock."""
    if is_training(run):
        return Activity.TRAINING
    if step is None and course.ended is None and not course.begun:
        return Activity.NEW
    if course.ended == "failed":
        return Activity.FAILED
    at_end = course.max_steps is not None and step is not None and step >= course.max_steps
    if course.ended == "finished" or at_end:
        return Activity.FINISHED
    return Activity.KILLED if course.begun and course.ended is None else Activity.STOPPED


def is_training(run: Run) -> bool:
    """True while a live process holds the run's lock.

    A note from another host is believed while the run shows signs of life, at least once in `ELSEWHERE`.
    """
    if not run.lock.in_use:
        return False
    owner = run.lock.owner()
    if owner is None or owner.host == os.uname().nodename:
        return True
    stamps = [run.store.stamp(path) for path in (layout.EVENTS, layout.METRICS, layout.OWNER, layout.BEAT)]
    changed = max((stamp.changed_ns for stamp in stamps if stamp), default=0)
    return datetime.now(UTC).timestamp() - changed / 1e9 < ELSEWHERE.total_seconds()


@dataclass(frozen=True, slots=True)
class NextSave:
    """When the next save is due: its step, steps until then, seconds until then (None: not known)."""

    step: int
    in_steps: int
    eta: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; seconds."""
        return {"step": self.step, "in_steps": self.in_steps, "eta_s": self.eta}


def cadence(checkpoints: Sequence[Checkpoint], past: Past) -> int | None:
    """Steps between two saves, the median of the last ones of the present timeline; None before the second."""
    if not checkpoints:
        return None
    steps = past.steps.get(checkpoints[-1].timeline) or [checkpoint.step for checkpoint in checkpoints]
    recent = steps[-RECENT - 1 :]
    gaps = [after - before for before, after in pairwise(recent) if after > before]
    return round(statistics.median(gaps)) if gaps else None


def next_save(checkpoints: Sequence[Checkpoint], past: Past, course: Course) -> NextSave | None:
    """The next save by the cadence so far; None where there is none yet, or the training is at its end."""
    every = cadence(checkpoints, past)
    if every is None or not checkpoints:
        return None
    last = checkpoints[-1]
    step = max(course.step or 0, last.step)
    due = last.step + every * ((step - last.step) // every + 1)
    if course.max_steps is not None:
        if step >= course.max_steps:
            return None
        due = min(due, course.max_steps)
    pace = past.pace
    return NextSave(due, due - step, None if pace is None else round(pace * (due - step), 3))


@dataclass(frozen=True, slots=True)
class Stalls:
    """Seconds that saves held the training up: the last, the median, the longest, and how many saves told."""

    last: float
    median: float
    longest: float
    count: int

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; seconds."""
        return {"last_s": self.last, "median_s": self.median, "max_s": self.longest, "count": self.count}


def stalls(past: Past) -> Stalls | None:
    """What saves cost so far; None where no save said it."""
    found = [stall.blocked for stall in past.stalls]
    return Stalls(found[-1], statistics.median(found), max(found), len(found)) if found else None


@dataclass(frozen=True, slots=True)
class InFlightSave:
    """A save that is being written: its step (None: not begun), since when, bytes so far."""

    step: int | None
    since: datetime
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; bytes, time in ISO 8601 UTC."""
        return {"step": self.step, "since": self.since.isoformat(), "bytes_so_far": self.bytes}


def in_flight(run: Run) -> InFlightSave | None:
    """The save that a training is writing now, None when there is none; what a killed one left is none."""
    found = [entry.path for entry in run.store.list(layout.STAGING) if entry.kind == "directory"]
    if not found or not is_training(run):
        return None
    dated = [(stamp, name) for name in found if (stamp := run.store.stamp(f"{layout.STAGING}/{name}"))]
    if not dated:
        return None
    stamp, name = max(dated, key=_changed)
    entries = run.store.walk(f"{layout.STAGING}/{name}")
    parsed = [found for entry in entries if (found := parse_name(entry.path))]
    size = sum(entry.size for entry in entries if entry.kind == "file")
    since = datetime.fromtimestamp(stamp.changed_ns / 1e9, UTC)
    return InFlightSave(parsed[0][1] if parsed else None, since, size)


def _changed(dated: tuple[Stamp, str]) -> int:
    return dated[0].changed_ns
