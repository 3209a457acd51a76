"""Checkpoints together with what became known of them after their commits: late metrics, lost files, damage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from keepstep.model import Checkpoint, Damage

LateMetrics = Mapping[int, Mapping[str, float]]
"""Metrics by generation; the mapping of a generation is never changed, only replaced."""


class _Joined(NamedTuple):
    """A checkpoint, what was known of it, and both together."""

    checkpoint: Checkpoint
    metrics: Mapping[str, float] | None
    lost: tuple[str, ...]
    damage: Damage
    joined: Checkpoint


class Joiner:
    """Joins checkpoints with what is known of them, and one with the same only once."""

    def __init__(self) -> None:
        # By identity, which hashes faster than a path; each value holds its checkpoint: no identity comes again.
        self._known: dict[int, _Joined] = {}

    def join(
        self,
        checkpoints: Iterable[Checkpoint],
        late: LateMetrics,
        lost: Mapping[int, tuple[str, ...]] | None = None,
        damage: Mapping[int, Damage] | None = None,
    ) -> tuple[Checkpoint, ...]:
        """The checkpoints in their order, each with its late metrics and `damage`, and without what it `lost`."""
        lost, damage = lost or {}, damage or {}
        known, fresh = self._known, dict[int, _Joined]()
        found: list[Checkpoint] = []
        for checkpoint in checkpoints:
            metrics, gone = late.get(checkpoint.generation), lost.get(checkpoint.generation, ())
            hurt = damage.get(checkpoint.generation, Damage.NONE)
            if metrics or gone or hurt:
                before = known.get(id(checkpoint))
                if before is None or before.metrics is not metrics or (before.lost, before.damage) != (gone, hurt):
                    joined = checkpoint.with_metrics(metrics or {}).without(gone).known(hurt)
                    before = _Joined(checkpoint, metrics, gone, hurt, joined)
                fresh[id(checkpoint)] = before
                found.append(before.joined)
            else:
                found.append(checkpoint)
        self._known = fresh
        return tuple(found)
