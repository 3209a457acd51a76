"""Checkpoints together with the metrics that became known after their commits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from keepstep.model import Checkpoint

LateMetrics = Mapping[int, Mapping[str, float]]
"""Metrics by generation; the mapping of a generation is never changed, only replaced."""


class Joiner:
    """Joins checkpoints with late metrics, and one with the same ones only once."""

    def __init__(self) -> None:
        # By identity, which hashes faster than a path; each value holds its checkpoint: no identity comes again.
        self._known: dict[int, tuple[Checkpoint, Mapping[str, float], Checkpoint]] = {}

    def join(self, checkpoints: Iterable[Checkpoint], late: LateMetrics) -> tuple[Checkpoint, ...]:
        """The checkpoints in their order, each with its late metrics."""
        known, fresh = self._known, dict[int, tuple[Checkpoint, Mapping[str, float], Checkpoint]]()
        found: list[Checkpoint] = []
        for checkpoint in checkpoints:
            metrics = late.get(checkpoint.generation)
            if metrics:
                before = known.get(id(checkpoint))
                if before is None or before[1] is not metrics:
                    before = (checkpoint, metrics, checkpoint.with_metrics(metrics))
                fresh[id(checkpoint)] = before
                found.append(before[2])
            else:
                found.append(checkpoint)
        self._known = fresh
        return tuple(found)
