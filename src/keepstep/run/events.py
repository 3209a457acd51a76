"""The event log of a run: one JSON object a line, only ever appended to."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from keepstep import layout
from keepstep.log import logger
from keepstep.model import Checkpoint, Damage
from keepstep.run.tail import Tail
from keepstep.stores import Store
from keepstep.strict import changed, finite_or_name

Event = dict[str, Any]

DURABLE = frozenset(
    {"metrics", "timeline", "restored", "removed", "thinned", "quarantined", "resumed", "run", "sealed", "mirror_ahead"}
)
"""Events that are on disk before the call returns; the others only tell of what the manifests know anyway."""
_SAVES = 5
"""The last saves by which it is told how long one takes."""
TELLING = frozenset({"removed", "thinned", "sealed"})
"""Of these, events of what is done already: where there is no room for the line, it is only warned about."""


class EventLog:
    """Appends and reads `.keepstep/events.jsonl`.

    Every event has `time` (UTC, ISO 8601) and `event`, its name; docs/events.md says what each name means and what
    other fields it has. `listeners` hear of each event of this process once it is written.
    What the events say together is kept: asking again reads what any process appended since, and nothing twice.
    While it is `muted` nothing is written.
    """

    def __init__(self, store: Store, *, muted: bool = False) -> None:
        self.muted = muted
        self._store = store
        self._tail = Tail(store, layout.EVENTS)
        self._state = _Folded()
        self._guard = threading.Lock()
        self.listeners: list[Callable[[Event], None]] = []

    def append(self, event: str, **fields: Any) -> Event:
        """Write one event and return it. Raises OSError for a durable one; another is only warned about.

        A full disk must not turn a checkpoint that is committed into an error.
        """
        record = {"time": datetime.now(UTC), "event": event, **changed(fields, _plain)}
        # A process killed in the middle of a line must not spoil the next one: every line brings its own start.
        line = b"\n" + msgspec.json.encode(record) + b"\n"
        try:
            if not self.muted:
                self._store.append(layout.EVENTS, line, durable=event in DURABLE)
        except OSError as error:
            if event in DURABLE - TELLING:
                raise
            logger.warning("The event log of %s missed %r: %s", self._store.local_path(""), event, error)
        for hear in self.listeners:
            hear(record)
        return record

    @staticmethod
    def line(event: Event) -> bytes:
        """An event as a line of the log."""
        return msgspec.json.encode(changed(event, _plain)) + b"\n"

    def read(self) -> Iterator[Event]:
        """All whole events, oldest first; torn or foreign lines are passed over."""
        if not self._store.exists(layout.EVENTS):
            return
        rest = b""
        for chunk in self._store.chunks(layout.EVENTS, size=2**20):
            *lines, rest = (rest + bytes(chunk)).split(b"\n")
            yield from parse_lines(lines)
        yield from parse_lines([rest])

    def late_metrics(self) -> dict[int, dict[str, float]]:
        """Metrics that arrived after their checkpoint's commit, by generation."""
        with self._guard:
            return dict(self._folded().late)

    def damaged(self) -> frozenset[int]:
        """Generations whose last verification failed."""
        with self._guard:
            return frozenset(self._folded().damage)

    def damage(self) -> dict[int, Damage]:
        """What the last verification found damaged, by generation; of most nothing."""
        with self._guard:
            return dict(self._folded().damage)

    def verified(self) -> dict[int, datetime]:
        """When every byte held at the last verification, by generation; without those that were never checked, or were
        sealed anew since.
        """
        with self._guard:
            return dict(self._folded().verified)

    def arrivals(self) -> tuple[dict[str, int], dict[str, int]]:
        """By name, how many values of a metric came with a commit, and how many were recorded afterwards."""
        with self._guard:
            folded = self._folded()
            return dict(folded.with_commits), dict(folded.afterwards)

    def lost(self) -> dict[int, tuple[str, ...]]:
        """Files that a resume needs and that the last verification missed, by generation."""
        with self._guard:
            return dict(self._folded().lost)

    def unloaded(self) -> dict[int, str]:
        """By generation, why a checkpoint did not come back into the model when its training loaded it as the best."""
        with self._guard:
            return dict(self._folded().unloaded)

    def save_seconds(self) -> float:
        """How long a save takes until it is durable, by the longest of the last ones; 0 where none was measured."""
        with self._guard:
            return max(self._folded().took, default=0.0)

    def last_generation(self) -> int:
        """The highest generation that was ever committed, 0 when none was."""
        with self._guard:
            return self._folded().last_generation

    def last_commit(self) -> int:
        """The highest generation whose commit stands in the log, 0 where none does."""
        with self._guard:
            return self._folded().last_commit

    def _folded(self) -> _Folded:
        added = self._tail.read()
        if added.anew:
            self._state = _Folded()
        for lines in added.lines:
            for event in parse_lines(lines):
                self._state.take(event)
        return self._state


class _Folded(msgspec.Struct):
    """What the events say together, up to the one that was taken last."""

    late: dict[int, dict[str, float]] = msgspec.field(default_factory=dict[int, dict[str, float]])
    damage: dict[int, Damage] = msgspec.field(default_factory=dict[int, Damage])
    verified: dict[int, datetime] = msgspec.field(default_factory=dict[int, datetime])
    lost: dict[int, tuple[str, ...]] = msgspec.field(default_factory=dict[int, tuple[str, ...]])
    unloaded: dict[int, str] = msgspec.field(default_factory=dict[int, str])
    last_generation: int = 0
    last_commit: int = 0
    took: deque[float] = msgspec.field(default_factory=lambda: deque[float](maxlen=_SAVES))
    with_commits: Counter[str] = msgspec.field(default_factory=Counter[str])
    afterwards: Counter[str] = msgspec.field(default_factory=Counter[str])

    def take(self, event: Event) -> None:
        generation, name = event.get("generation"), event["event"]
        if not isinstance(generation, int):
            return
        self.last_generation = max(self.last_generation, generation)
        if name == "metrics":
            # A new mapping: those that were given away stay as they are.
            before, values = self.late.get(generation, {}), dict(_numbers(event.get("metrics")))
            self.afterwards.update(values.keys() - before.keys())
            self.late[generation] = {**before, **values}
        elif name == "committed":
            self.last_commit = max(self.last_commit, generation)
            self.with_commits.update(name for name, _ in _numbers(event.get("metrics")))
            self.damage.pop(generation, None)
            self.verified.pop(generation, None)
            self.lost.pop(generation, None)
        elif name == "thinned":
            if self.damage.get(generation) is Damage.RESUME:
                del self.damage[generation]  # it went with the rest
        elif name == "sealed":
            self.lost.pop(generation, None)  # its manifest knows
            self.verified.pop(generation, None)
        elif name == "unloaded":
            self.unloaded[generation] = str(event.get("why", ""))
        elif name == "kept":
            self.took.extend(value for _, value in _numbers({"": event.get("durable_seconds")}))
        elif name == "verified":
            self._verified(generation, event)

    def _verified(self, generation: int, event: Event) -> None:
        if damage := _damage(event):
            self.damage[generation] = damage
        else:
            self.damage.pop(generation, None)
        self.verified.pop(generation, None)
        if event.get("ok"):
            with suppress(ValueError):
                self.verified[generation] = datetime.fromisoformat(str(event.get("time")))
        if lost := tuple(_texts(event.get("lost"))):
            self.lost[generation] = lost
        else:
            self.lost.pop(generation, None)


def late_metrics_of(events: Iterable[Event]) -> dict[int, dict[str, float]]:
    """Metrics that arrived after their checkpoint's commit, by generation, as these events have them."""
    folded = _Folded()
    for event in events:
        folded.take(event)
    return folded.late


def _damage(event: Event) -> Damage:
    """What a verification found; one that doesn't say how far it goes may mean everything."""
    with suppress(ValueError):
        return Damage(event.get("damage"))
    # What nothing but its owner reads may be damaged, and the checkpoint is a resume point all the same.
    return Damage.NONE if event.get("ok") or event.get("resumable") else Damage.WEIGHTS


def commit_fields(checkpoint: Checkpoint, replaced: Sequence[int]) -> dict[str, Any]:
    """What an event says of a commit; `replaced` are generations of the same step that went."""
    return {
        "step": checkpoint.step,
        "generation": checkpoint.generation,
        "timeline": checkpoint.timeline,
        "parent": checkpoint.parent,
        "kind": checkpoint.kind.value,
        "metrics": dict(checkpoint.metrics),
        "size_bytes": checkpoint.size_bytes,
        "replaces": list(replaced),
    }


def parse_lines(lines: list[bytes]) -> Iterator[Event]:
    """The events in these lines; torn and foreign ones are passed over."""
    for line in lines:
        if not line.strip():
            continue
        try:
            event = msgspec.json.decode(line)
        except layout.NOT_JSON:
            continue
        if isinstance(event, dict):
            event = cast("Event", event)
            if isinstance(event.get("event"), str):
                yield event


def _numbers(metrics: Any) -> Iterator[tuple[str, float]]:
    """What is a number, or the name of one that JSON lacks; one odd value must not make a run unreadable."""
    if not isinstance(metrics, dict):
        return
    for name, value in cast("dict[str, Any]", metrics).items():
        if type(value) is float:  # as nearly all are: a tenth of the time for thousands of events
            yield name, value
            continue
        with suppress(TypeError, ValueError, OverflowError):
            yield name, float(value)


def _texts(values: Any) -> Iterator[str]:
    if isinstance(values, list):
        yield from (value for value in cast("list[Any]", values) if isinstance(value, str))


def _plain(value: Any) -> Any:
    """JSON has no NaN: such numbers become the strings that float() reads back."""
    return finite_or_name(value) if isinstance(value, float) else value
