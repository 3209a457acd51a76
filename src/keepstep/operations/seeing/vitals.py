"""The numbers by which a run is watched: what was saved, what it cost, what failed, what is on disk."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from keepstep import layout
from keepstep.model import Checkpoint
from keepstep.operations.seeing.mirrored import Mirrored, mirrored_of
from keepstep.run import Event, Run, Tail, parse_lines
from keepstep.stores import Room

BOUNDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""Upper bounds of the classes of a distribution, in seconds; one more class takes what is above."""


@dataclass(slots=True)
class Distribution:
    """How often durations fell into each class, their sum and the last one, in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0
    last: float | None = None

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds
        self.last = seconds


@dataclass(slots=True)
class Tally:
    """What the event log says of a run from its beginning; bytes, and times in UTC."""

    commits: int = 0
    committed_bytes: int = 0
    last_commit: datetime | None = None
    blocked: Distribution = field(default_factory=Distribution)
    durable: Distribution = field(default_factory=Distribution)
    troubles: Counter[str] = field(default_factory=Counter[str])
    """Saves that failed, were refused, or were skipped, by these words."""
    gone: Counter[str] = field(default_factory=Counter[str])
    """Checkpoints removed, thinned and quarantined, by these words."""
    freed_bytes: int = 0
    resumes: Counter[str] = field(default_factory=Counter[str])
    """Resumes by their exactness, as it was said first."""
    corrections: Counter[str] = field(default_factory=Counter[str])
    """Resumes that turned out to be of another exactness, by that."""
    proved: int = 0
    """Resumes whose course came out as an interrupted attempt had logged it."""
    _level: str = ""
    _proved: bool = False
    verifications: Counter[str] = field(default_factory=Counter[str])
    """Verifications that found all bytes ok, and those that found a checkpoint damaged."""
    verified_at: dict[int, datetime] = field(default_factory=dict[int, datetime])
    """When a generation last passed a verification."""

    def take(self, event: Event) -> None:
        """Count one event; what an event lacks, or has of another type, is passed over."""
        match event["event"]:
            case "committed":
                self.commits += 1
                self.committed_bytes += _whole(event.get("size_bytes"))
                self.last_commit = _moment(event) or self.last_commit
            case "kept":
                for name, distribution in (("blocked_seconds", self.blocked), ("durable_seconds", self.durable)):
                    if isinstance(seconds := event.get(name), int | float):
                        distribution.add(float(seconds))
            case "failed" | "refused" | "skipped" as trouble:
                self.troubles[trouble] += 1
            case "removed" | "thinned" | "quarantined" as way:
                self.gone[way] += 1
                self.freed_bytes += _whole(event.get("freed_bytes" if way == "thinned" else "size_bytes"))
            case "resumed":
                self._level, self._proved = str(event.get("level", "unknown")), False
                self.resumes[self._level] += 1
            case "course":
                self._take_course(event)
            case "verified":
                self._take_verification(event)
            case _:
                pass

    def _take_course(self, event: Event) -> None:
        level, proved = str(event.get("level", self._level)), event.get("evidence") == "proved"
        self.corrections[level] += level != self._level
        self.proved += proved and not self._proved
        self._level, self._proved = level, self._proved or proved

    def _take_verification(self, event: Event) -> None:
        good, generation, when = bool(event.get("ok")), event.get("generation"), _moment(event)
        self.verifications["ok" if good else "damaged"] += 1
        if good and isinstance(generation, int) and when is not None:
            self.verified_at[generation] = when


@dataclass(frozen=True, slots=True)
class Vitals:
    """A run as it is now: its tally, its checkpoints, the room it has (bytes), and whether a process holds its lock."""

    tally: Tally
    checkpoints: tuple[Checkpoint, ...]
    best: Checkpoint | None
    best_value: float | None
    metric: str | None
    damaged: int
    budget_bytes: int | None
    room: Room
    in_use: bool
    mirror: Mirrored | None = None

    @property
    def latest(self) -> Checkpoint | None:
        """The newest checkpoint."""
        return self.checkpoints[-1] if self.checkpoints else None

    @property
    def size_bytes(self) -> int:
        """Bytes of all checkpoints."""
        return sum(checkpoint.size_bytes for checkpoint in self.checkpoints)

    @property
    def latest_verified(self) -> datetime | None:
        """When the newest checkpoint last passed a verification (UTC), None when it never did."""
        return self.tally.verified_at.get(self.latest.generation) if self.latest else None


class VitalsReader:
    """Measures one run again and again; of the event log it reads each line once."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._tail = Tail(run.store, layout.EVENTS)
        self._tally = Tally()

    def read(self) -> Vitals:
        """The run's vitals now. Raises OSError and KeepstepError as looking at a run does."""
        run, added = self.run, self._tail.read()
        if added.anew:
            self._tally = Tally()
        for lines in added.lines:
            for event in parse_lines(lines):
                self._tally.take(event)
        checkpoints, metric = run.checkpoints, run.policy.metric
        best = run.best
        in_use = run.lock.in_use
        damaged = run.events.damaged()
        return Vitals(
            tally=self._tally,
            checkpoints=checkpoints,
            best=best,
            best_value=metric.value(best.metrics) if metric and best else None,
            metric=metric.name if metric else None,
            damaged=sum(bool(checkpoint.damage) or checkpoint.generation in damaged for checkpoint in checkpoints),
            budget_bytes=run.limits.budget,
            room=run.store.room(),
            in_use=in_use,
            mirror=mirrored_of(run, checkpoints, alive=in_use),
        )


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _moment(event: Event) -> datetime | None:
    try:
        return datetime.fromisoformat(str(event.get("time")))
    except ValueError:
        return None
