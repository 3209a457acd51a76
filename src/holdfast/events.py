"""The event log of a run: one JSON object a line, only ever appended to."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from holdfast import layout
from holdfast.stores import Store

logger = logging.getLogger("holdfast")

Event = dict[str, Any]

DURABLE = frozenset({"metrics", "timeline", "removed", "quarantined", "resumed", "run"})
"""Events that are on disk before the call returns; the others only tell of what the manifests know anyway."""


class EventLog:
    """Appends and reads `.holdfast/events.jsonl`.

    Every event has `time` (UTC, ISO 8601) and `event`: run, committed, removed, verified, quarantined, metrics,
    timeline, resumed, pinned, unpinned, tagged, failed, finished, recovered; the other fields depend on it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def append(self, event: str, **fields: Any) -> Event:
        """Write one event and return it. Raises OSError for a durable one; another is only warned about.

        A full disk must not turn a checkpoint that is committed into an error.
        """
        record = {"time": datetime.now(UTC), "event": event, **_plain(fields)}
        # A process killed in the middle of a line must not spoil the next one: every line brings its own start.
        line = b"\n" + msgspec.json.encode(record) + b"\n"
        try:
            self._store.append(layout.EVENTS, line, durable=event in DURABLE)
        except OSError as error:
            if event in DURABLE:
                raise
            logger.warning("The event log of %s missed %r: %s", self._store.local_path(""), event, error)
        return record

    def read(self) -> Iterator[Event]:
        """All whole events, oldest first; torn or foreign lines are passed over."""
        if not self._store.exists(layout.EVENTS):
            return
        rest = b""
        for chunk in self._store.chunks(layout.EVENTS, size=2**20):
            *lines, rest = (rest + bytes(chunk)).split(b"\n")
            yield from _parse(lines)
        yield from _parse([rest])

    def late_metrics(self) -> dict[int, dict[str, float]]:
        """Metrics that arrived after their checkpoint's commit, by generation."""
        found: dict[int, dict[str, float]] = {}
        for event in self.read():
            generation = event.get("generation")
            if event["event"] == "metrics" and isinstance(generation, int):
                found.setdefault(generation, {}).update(_numbers(event.get("metrics")))
        return found

    def damaged(self) -> frozenset[int]:
        """Generations whose last verification failed."""
        found: set[int] = set()
        for event in self.read():
            generation = event.get("generation")
            if isinstance(generation, int):
                if event["event"] == "verified":
                    (found.discard if event.get("ok") else found.add)(generation)
                elif event["event"] == "committed":
                    found.discard(generation)
        return frozenset(found)

    def last_generation(self) -> int:
        """The highest generation that was ever committed, 0 when none was."""
        return max((e["generation"] for e in self.read() if isinstance(e.get("generation"), int)), default=0)


def _parse(lines: list[bytes]) -> Iterator[Event]:
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
        with suppress(TypeError, ValueError, OverflowError):
            yield name, float(value)


def _plain(value: Any) -> Any:
    """JSON has no NaN: such numbers become the strings that float() reads back."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in cast("dict[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    return value
