"""Carrying out a retention plan: remove what it drops, reason by reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdfast.model import Checkpoint
from holdfast.repository import Dispose
from holdfast.retention import Plan
from holdfast.run import Run


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, by generation, and what was spared because somebody pinned it in the meantime."""

    removed: tuple[Checkpoint, ...]
    spared: tuple[Checkpoint, ...]

    @property
    def freed_bytes(self) -> int:
        return sum(checkpoint.size_bytes for checkpoint in self.removed)


def apply(
    run: Run, plan: Plan, on_removed: Callable[[Checkpoint], None] | None = None, dispose: Dispose | None = None
) -> Pruned:
    """Remove what `plan` drops, oldest first; `dispose` may free the bytes later. The run's lock must be held.

    Pins are read again before each removal: people may pin while a training runs.
    """
    removed: list[Checkpoint] = []
    spared: list[Checkpoint] = []
    for checkpoint in plan.remove:
        if checkpoint.generation in run.pins.held:
            spared.append(checkpoint)
            continue
        run.remove(checkpoint, "; ".join(plan.reasons(checkpoint.generation)), dispose)
        removed.append(checkpoint)
        if on_removed is not None:
            on_removed(checkpoint)
    return Pruned(tuple(removed), tuple(spared))
