"""A run for whoever schedules it: alive or not, how far, how fast, what is saved, and what a resume would use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keepstep import layout
from keepstep.model import Checkpoint
from keepstep.operations.seeing.chronicle import Chronicle
from keepstep.operations.seeing.curves import CurveReader
from keepstep.operations.seeing.mirrored import Mirrored, mirrored_of
from keepstep.operations.seeing.overview import (
    Course,
    InFlightSave,
    NextSave,
    Overview,
    in_flight,
    is_training,
    next_save,
    overview,
)
from keepstep.run import Pulse, Run


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a run's lock, and since when (UTC); `here` is True on this host."""

    pid: int
    host: str
    since: datetime
    here: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines."""
        return {"pid": self.pid, "host": self.host, "since": self.since.astimezone(UTC).isoformat()}


@dataclass(frozen=True, slots=True)
class Status:
    """What is known of a run now, from its files alone.

    `last_sign` is when it last wrote anything (UTC), `pace` in seconds a step, `eta` seconds until the last step.
    `resumes_from` is the newest that can be resumed from as its manifest says; its bytes are not verified. `mirror` is
    None for a run without one.
    """

    figures: Overview
    alive: bool
    holder: Holder | None
    last_sign: datetime | None
    pace: float | None
    saving: InFlightSave | None
    next_save: NextSave | None
    resumes_from: Checkpoint | None
    total_bytes: int
    mirror: Mirrored | None = None

    @property
    def eta(self) -> float | None:
        """Seconds until the last step, None where nobody knows, or nobody trains."""
        step, last = self.figures.step, self.figures.max_steps
        if not self.alive or self.pace is None or step is None or last is None:
            return None
        return max(last - step, 0) * self.pace

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines: bytes, seconds, times in ISO 8601 UTC."""
        found = self.resumes_from
        return {
            **self.figures.to_json(),
            "alive": self.alive,
            "holder": self.holder.to_json() if self.holder else None,
            "last_sign_of_life": None if self.last_sign is None else self.last_sign.isoformat(),
            "seconds_per_step": self.pace,
            "eta_s": self.eta,
            "saving": self.saving.to_json() if self.saving else None,
            "next_save": self.next_save.to_json() if self.next_save else None,
            "resumes_from": None if found is None else {"step": found.step, "path": str(found.path)},
            "total_bytes": self.total_bytes,
            "mirror": self.mirror.to_json() if self.mirror else None,
        }


def status_of(run: Run) -> Status:
    """The run as it is now. Raises OSError."""
    checkpoints, past = run.checkpoints, Chronicle(run).read()
    beat, alive = Pulse(run.store).read(), is_training(run)
    course = Course.of(CurveReader(run).curves(points=1))
    if alive and beat is not None:
        step = max(beat.step, course.step or 0)
        course = Course(step, beat.max_steps or course.max_steps, course.ended, course.begun)
    figures = overview(run, checkpoints, course)
    pace = beat.pace if alive and beat is not None and beat.pace is not None else past.pace
    owner = run.lock.owner() if alive else None
    due = next_save(checkpoints, past, course) if alive else None
    if due is not None and pace is not None:
        due = NextSave(due.step, due.in_steps, round(pace * due.in_steps, 3))
    return Status(
        figures=figures,
        alive=alive,
        holder=None if owner is None else Holder(owner.pid, owner.host, owner.since, owner.host == os.uname().nodename),
        last_sign=_last_sign(run),
        pace=pace,
        saving=in_flight(run) if alive else None,
        next_save=due,
        resumes_from=next((c for c in reversed(checkpoints) if c.resumable and not c.damage), None),
        total_bytes=run.store.room().total_bytes,
        mirror=mirrored_of(run, checkpoints, alive=alive),
    )


def _last_sign(run: Run) -> datetime | None:
    stamps = [run.store.stamp(path) for path in (layout.BEAT, layout.EVENTS, layout.METRICS)]
    changed = max((stamp.modified_ns for stamp in stamps if stamp), default=0)
    return datetime.fromtimestamp(changed / 1e9, UTC) if changed else None
