"""A run at one moment: whether it trains, how far it is, its curve, its checkpoints, its disk, what happened last."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any

from keepstep import layout
from keepstep.operations.seeing.curves import CurveReader, Curves
from keepstep.operations.seeing.listing import Listing, list_checkpoints
from keepstep.operations.seeing.mirrored import Mirrored, mirrored_of
from keepstep.operations.seeing.noise import courses
from keepstep.operations.seeing.overview import Activity, Course, activity
from keepstep.run import Event, Run, Tail, parse_lines
from keepstep.stores import Room

LAST_EVENTS = 20
_GONE = {"removed", "thinned", "quarantined"}


@dataclass(frozen=True, slots=True)
class View:
    """What one look at a run found.

    `step` is the last that is known of, None before the first. `curve` is the live course of `metric` as pairs of step
    and value, None without a metric. `metrics` are names that were logged and make a curve. `gone` are steps whose
    checkpoint was removed or set aside, and is not there now. `events` are the last, `news` what came
    since the look before.
    """

    activity: Activity
    step: int | None
    max_steps: int | None
    metric: str | None
    metrics: tuple[str, ...]
    curve: tuple[tuple[int, float], ...]
    listing: Listing
    gone: tuple[int, ...]
    room: Room
    events: tuple[Event, ...]
    news: tuple[Event, ...]
    mirror: Mirrored | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values: steps, bytes; the curve as steps and values, null for those that are not finite."""
        return {
            "state": self.activity.value,
            "step": self.step,
            "max_steps": self.max_steps,
            "kept_bytes": self.listing.size_bytes,
            "budget_bytes": self.listing.limits.budget,
            "taken_bytes": self.listing.plan.taken_bytes,
            "free_bytes": self.room.free_bytes,
            "total_bytes": self.room.total_bytes,
            "checkpoints": [row.to_json() for row in self.listing.rows],
            "metric": self.metric,
            "metrics": list(self.metrics),
            "curve": {
                "steps": [step for step, _ in self.curve],
                "values": [value if math.isfinite(value) else None for _, value in self.curve],
            },
            "events": list(self.events),
            "mirror": self.mirror.to_json() if self.mirror else None,
        }


class Watcher:
    """Looks at one run again and again; what only grows is read once."""

    def __init__(self, run: Run, *, metric: str | None = None, points: int = 800) -> None:
        self._run = run
        self._metric = metric
        self._points = points
        self._curves = CurveReader(run)
        self._tail = Tail(run.store, layout.EVENTS)
        self._events: deque[Event] = deque(maxlen=LAST_EVENTS)
        self._news: list[Event] = []
        self._gone: set[int] = set()

    def look(self) -> View:
        """The run as it is now. Raises OSError."""
        self._hear()
        listing = list_checkpoints(self._run)
        steps = {row.checkpoint.step for row in listing.rows}
        curves = self._curves.curves(points=1)
        totals = {name: sum(strand.total for strand in strands) for name, strands in curves.strands.items()}
        metrics = courses(curves.names, totals)
        metric = self._metric or _first(("loss", listing.metric.name if listing.metric else ""), metrics)
        if metric is not None:
            curves = self._curves.curves(names=(metric,), points=self._points)
        curve = tuple(
            pair
            for strand in (curves.strands.get(metric, ()) if metric else ())
            if strand.live
            for pair in zip(strand.steps, strand.values, strict=True)
        )
        step = step_of(curves, listing)
        does = activity(self._run, step, Course.of(curves))
        here = [row.checkpoint for row in listing.rows]
        return View(
            does,
            step,
            curves.max_steps,
            metric,
            metrics,
            tuple(sorted(curve, key=lambda pair: pair[0])),
            listing,
            tuple(sorted(self._gone - steps)),
            self._run.store.room(),
            tuple(self._events),
            tuple(self._news),
            mirrored_of(self._run, here, alive=does is Activity.TRAINING),
        )

    def _hear(self) -> None:
        added = self._tail.read()
        self._news.clear()
        if added.anew:
            self._events.clear()
            self._gone.clear()
        for lines in added.lines:
            for event in parse_lines(lines):
                self._events.append(event)
                self._news.append(event)
                if event["event"] in _GONE and isinstance(event.get("step"), int) and "previous" not in event:
                    self._gone.add(event["step"])


def step_of(curves: Curves, listing: Listing) -> int | None:
    """The last step of the present course: logged, or that of the newest checkpoint."""
    logged = curves.spans[-1].last_step if curves.spans else None
    begun = curves.spans[-1].attempt.from_step if curves.spans else None
    saved = listing.rows[-1].checkpoint.step if listing.rows else None
    return max((step for step in (logged, begun, saved) if step is not None), default=None)


def _first(wanted: tuple[str, ...], metrics: tuple[str, ...]) -> str | None:
    return next((name for name in (*wanted, *metrics) if name in metrics), None)
