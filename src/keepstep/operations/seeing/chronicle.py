"""What the events of a run say of its past: what went and why, how long saves took, what was checked and resumed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from typing import Any, ClassVar, Literal, cast

from keepstep import layout
from keepstep.operations.seeing.receipts import take_receipt
from keepstep.run import Event, Run, Tail, parse_lines
from keepstep.strict import finite_or_name

LAST = 500
"""Events that are kept as they are."""

HowGone = Literal["removed", "thinned", "quarantined", "set aside"]


@dataclass(frozen=True, slots=True)
class Gone:
    """A checkpoint that is no longer what was committed: its last metrics, why, when (ISO 8601 UTC, as logged)."""

    step: int
    generation: int | None
    kind: HowGone
    reason: str
    time: str | None
    metrics: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; non-finite metrics as strings."""
        return {
            "step": self.step,
            "generation": self.generation,
            "kind": self.kind,
            "reason": self.reason,
            "time": self.time,
            "metrics": {name: finite_or_name(value) for name, value in self.metrics.items()},
        }


@dataclass(frozen=True, slots=True)
class Stall:
    """One save: seconds that it held the training up, and seconds until it was durable."""

    step: int
    blocked: float
    durable: float
    time: str | None

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; seconds."""
        return {"step": self.step, "blocked_s": self.blocked, "durable_s": self.durable, "time": self.time}


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit: what its event says. `metrics` are those known then, `at_commit`, joined with what arrived later."""

    step: int
    generation: int
    timeline: int
    weights_only: bool
    size_bytes: int
    time: str | None
    at_commit: Mapping[str, float]
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Use:
    """Bytes of the run's checkpoints right after an event, what lies aside too, and the step of what changed."""

    time: str | None
    step: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of the last verification of a generation."""

    ok: bool
    time: str | None
    problems: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines."""
        return {"ok": self.ok, "time": self.time, "problems": list(self.problems)}


@dataclass(slots=True)
class Past:
    """All that was taken from the events so far; lists are in the order of the log."""

    commits: dict[int, Commit] = field(default_factory=dict[int, Commit])
    gone: list[Gone] = field(default_factory=list[Gone])
    stalls: list[Stall] = field(default_factory=list[Stall])
    uses: list[Use] = field(default_factory=list[Use])
    checks: dict[int, Check] = field(default_factory=dict[int, Check])
    receipts: list[Event] = field(default_factory=list[Event])
    rewinds: dict[int, int] = field(default_factory=dict[int, int])
    """Generation that each timeline began from."""
    steps: dict[int, list[int]] = field(default_factory=dict[int, list[int]])
    """Steps that were committed on each timeline."""
    last: deque[Event] = field(default_factory=lambda: deque[Event](maxlen=LAST))
    turns: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])
    """What a replay follows: `("commit", generation)`, `("metrics", (generation, values))`, `("aside", generation)`:
    what is newer goes; `("return", (generations, generations))`: those that come back, and those that go."""
    _sizes: dict[int, int] = field(default_factory=dict[int, int])
    """Bytes of each generation on disk, and of those that lie aside."""
    _aside: dict[int, int] = field(default_factory=dict[int, int])
    _bytes: int = 0

    @property
    def pace(self) -> float | None:
        """Seconds per step between the last two commits, None before the second."""
        recent = list(islice(reversed(self.commits.values()), 2))
        if len(recent) < 2:
            return None
        after, before = recent
        began, ended = moment(before.time), moment(after.time)
        if began is None or ended is None or after.step <= before.step or after.timeline != before.timeline:
            return None
        return max((ended - began).total_seconds(), 0.0) / (after.step - before.step)

    def take(self, event: Event) -> None:
        """Add one event. One of another shape than keepstep's own is only shown among the last."""
        self.last.append(event)
        handle = self._HANDLERS.get(event["event"])
        if handle is not None:
            try:
                handle(self, event)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                return

    def _committed(self, event: Event) -> None:
        generation, step = int(event["generation"]), int(event["step"])
        timeline, size = int(event.get("timeline", 1)), int(event["size_bytes"])
        metrics = _numbers(event.get("metrics"))
        weights_only = event.get("kind") == "weights"
        self.commits[generation] = Commit(
            step, generation, timeline, weights_only, size, _time(event), metrics, metrics
        )
        self.steps.setdefault(timeline, []).append(step)
        self.turns.append(("commit", generation))
        for replaced in event.get("replaces") or ():
            self._resize(int(replaced), None)
        self._resize(generation, size)
        self._use(event, step)

    def _resize(self, generation: int, size: int | None) -> None:
        self._bytes -= self._sizes.pop(generation, 0)
        if size is not None:
            self._sizes[generation] = size
            self._bytes += size

    def _move_aside(self, generation: int) -> None:
        if (size := self._sizes.pop(generation, None)) is not None:
            self._bytes -= self._aside.pop(generation, 0)
            self._aside[generation] = size

    def _use(self, event: Event, step: int) -> None:
        self.uses.append(Use(_time(event), step, self._bytes))

    def _left(self, event: Event, kind: HowGone, reason: str) -> None:
        generation, step = int(event["generation"]), int(event["step"])
        known = self.commits.get(generation)
        self.gone.append(Gone(step, generation, kind, reason, _time(event), dict(known.metrics) if known else {}))
        if kind == "quarantined":
            self._move_aside(generation)
        elif event.get("state") is not None:
            self._bytes -= self._aside.pop(generation, 0)
        else:
            self._resize(generation, int(event["size_bytes"]) if kind == "thinned" else None)
        self._use(event, step)

    def _sealed(self, event: Event) -> None:
        self._resize(int(event["generation"]), int(event["size_bytes"]))
        self._use(event, int(event["step"]))

    def _removed(self, event: Event) -> None:
        if "previous" in event:  # of a previous run: this one's past does not know it
            return
        self._left(event, "removed", str(event["reason"]))

    def _thinned(self, event: Event) -> None:
        self._left(event, "thinned", str(event["reason"]))

    def _quarantined(self, event: Event) -> None:
        self._left(event, "quarantined", "; ".join(map(str, event["problems"])))

    def _rewound(self, event: Event) -> None:
        came_from, now = int(event["from_generation"]), int(event["now"])
        aside = [int(step) for step in event["set_aside"]]
        self.rewinds[now] = came_from
        self.turns.append(("aside", came_from))
        for generation, commit in self.commits.items():
            if generation > came_from and generation in self._sizes:
                reason = f"set aside: timeline {now} goes on from generation {came_from}"
                step, time = commit.step, _time(event)
                self.gone.append(Gone(step, generation, "set aside", reason, time, commit.metrics))
                self._move_aside(generation)
        if aside:
            self._use(event, max(aside))

    def _restored(self, event: Event) -> None:
        if event["came_from"] == "previous":
            return
        back, aside = [int(g) for g in event["generations"]], [int(g) for g in event["generations_aside"]]
        generation, step = int(event["generation"]), int(event["step"])
        self.rewinds[int(event["now"])] = generation
        for other in aside:
            if (commit := self.commits.get(other)) is not None:
                reason = f"set aside: the course of generation {generation} is back"
                self.gone.append(Gone(commit.step, other, "set aside", reason, _time(event), commit.metrics))
            self._move_aside(other)
        for other in back:
            if (size := self._aside.pop(other, None)) is not None:
                self._resize(other, size)
                self._bytes -= size
        self.gone = [one for one in self.gone if one.generation not in back]
        self.turns.append(("return", (back, aside)))
        self._use(event, step)

    def _measured(self, event: Event) -> None:
        generation, values = int(event["generation"]), _numbers(event["metrics"])
        known = self.commits.get(generation)
        if known is not None:
            self.commits[generation] = replace(known, metrics={**known.metrics, **values})
            self.turns.append(("metrics", (generation, values)))

    def _kept(self, event: Event) -> None:
        blocked, durable = float(event["blocked_seconds"]), float(event["durable_seconds"])
        self.stalls.append(Stall(int(event["step"]), blocked, durable, _time(event)))

    def _verified(self, event: Event) -> None:
        problems = tuple(map(str, event.get("problems") or ()))
        self.checks[int(event["generation"])] = Check(bool(event["ok"]), _time(event), problems)

    def _resumed(self, event: Event) -> None:
        take_receipt(self.receipts, event)

    _HANDLERS: ClassVar[dict[str, Callable[[Past, Event], None]]] = {
        "committed": _committed,
        "sealed": _sealed,
        "removed": _removed,
        "thinned": _thinned,
        "quarantined": _quarantined,
        "timeline": _rewound,
        "restored": _restored,
        "metrics": _measured,
        "kept": _kept,
        "verified": _verified,
        "resumed": _resumed,
        "course": _resumed,
    }


class Chronicle:
    """The past of one run, kept between calls: asking again reads what was appended since."""

    def __init__(self, run: Run) -> None:
        self._tail = Tail(run.store, layout.EVENTS)
        self._past = Past()

    def read(self) -> Past:
        """All that the events say up to now; the same object until the log is begun anew. Raises OSError."""
        added = self._tail.read()
        if added.anew:
            self._past = Past()
        for lines in added.lines:
            for event in parse_lines(lines):
                self._past.take(event)
        return self._past


def moment(text: str | None) -> datetime | None:
    """The time of an event, None where it has none that can be read."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _time(event: Event) -> str | None:
    time = event.get("time")
    return time if isinstance(time, str) else None


def _numbers(metrics: Any) -> dict[str, float]:
    return dict(_numbers_of(metrics))


def _numbers_of(metrics: Any) -> Iterator[tuple[str, float]]:
    if isinstance(metrics, dict):
        for name, value in cast("dict[Any, Any]", metrics).items():
            try:
                yield str(name), float(value)
            except (TypeError, ValueError, OverflowError):
                continue
