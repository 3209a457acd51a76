"""Which checkpoints another one was trained through: its course, back to the first of the run."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Any

from keepstep.model import Checkpoint
from keepstep.run.events import Event


class Lineage:
    """Parents of generations: as the manifests name them, and of what was removed as the event log does.

    A log of an earlier keepstep names no parents. There the newest one of the same timeline counts, then the one that
    the timeline began from. What nobody knows belongs to no course.
    """

    def __init__(self, checkpoints: Iterable[Checkpoint], events: Iterable[Event]) -> None:
        self._parents: dict[int, int | None] = {}
        self._timelines: dict[int, int] = {}
        self._begun: dict[int, int] = {}
        for event in events:
            self._take(event)
        for checkpoint in checkpoints:
            self._parents[checkpoint.generation] = checkpoint.parent
            self._timelines[checkpoint.generation] = checkpoint.timeline

    def course(self, checkpoint: Checkpoint) -> frozenset[int]:
        """Generations of the course that ends with a checkpoint, its own among them; some of them may be gone."""
        return frozenset(self._upwards(checkpoint))

    def nearest(self, checkpoint: Checkpoint, among: Container[int]) -> int | None:
        """The last generation before a checkpoint on its course that is one of `among`; None where none is."""
        upwards = self._upwards(checkpoint)
        next(upwards)
        return next((generation for generation in upwards if generation in among), None)

    def _upwards(self, checkpoint: Checkpoint) -> Iterator[int]:
        generation: int | None = checkpoint.generation
        timeline = checkpoint.timeline
        while generation is not None:
            yield generation
            timeline = self._timelines.get(generation, timeline)
            before = self._before(generation, timeline)
            generation = before if before is not None and before < generation else None

    def _before(self, generation: int, timeline: int) -> int | None:
        if generation in self._parents:
            return self._parents[generation]
        older = [g for g, of in self._timelines.items() if of == timeline and g < generation]
        return max(older, default=self._begun.get(timeline))

    def _take(self, event: Event) -> None:
        match event:
            case {"event": "committed", "generation": int(generation), **fields}:
                self._commit(generation, fields)
            case {"event": "timeline", "now": int(now), "from_generation": int(came_from)}:
                self._begun[now] = came_from
            case {"event": "restored", "now": int(now), "generation": int(came_from)}:
                self._begun[now] = came_from
            case _:
                return

    def _commit(self, generation: int, fields: dict[str, Any]) -> None:
        parent, timeline = fields.get("parent"), fields.get("timeline")
        if "parent" in fields and (parent is None or isinstance(parent, int)):
            self._parents[generation] = parent
        if isinstance(timeline, int):
            self._timelines[generation] = timeline
