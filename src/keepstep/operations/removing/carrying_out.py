"""Carrying out a retention plan: thin and remove what it says, reason by reason."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from keepstep.model import Checkpoint
from keepstep.repository import Dispose
from keepstep.retention import Plan
from keepstep.run import Run

logger = logging.getLogger("keepstep")


@dataclass(frozen=True, slots=True)
class Pruned:
    """What was removed, by generation, what was spared because somebody pinned it, or began to read it, in the
    meantime, what was thinned (as it was before), and what could not be; and what was removed of what lay aside.
    """

    removed: tuple[Checkpoint, ...]
    spared: tuple[Checkpoint, ...]
    thinned: tuple[Checkpoint, ...] = ()
    not_thinned: tuple[Checkpoint, ...] = ()
    removed_aside: tuple[Checkpoint, ...] = ()

    @property
    def freed_bytes(self) -> int:
        dropped = sum(checkpoint.size_bytes for checkpoint in (*self.removed, *self.removed_aside))
        return dropped + sum(checkpoint.size_bytes - checkpoint.thinned().size_bytes for checkpoint in self.thinned)


def apply_plan(
    run: Run, plan: Plan, on_done: Callable[[Checkpoint], None] | None = None, dispose: Dispose | None = None
) -> Pruned:
    """Remove what `plan` drops, what lies aside first, then thin what it thins, oldest first. The run's lock must be
    held.

    `on_done` hears of each; `dispose` may free the bytes later. Pins and readers are looked up again before
    each: people may pin and export while a training runs. What can't be thinned stays whole, and is said.
    """
    removed: dict[bool, list[Checkpoint]] = {True: [], False: []}
    spared: list[Checkpoint] = []
    for is_aside, decision in (*((True, d) for d in plan.aside), *((False, d) for d in plan.decisions)):
        if decision.stays:
            continue
        checkpoint = decision.checkpoint
        if run.holds(checkpoint):
            spared.append(checkpoint)
            continue
        run.remove(checkpoint, "; ".join(decision.reasons), dispose)
        removed[is_aside].append(checkpoint)
        if on_done is not None:
            on_done(checkpoint)
    thinned: list[Checkpoint] = []
    not_thinned: list[Checkpoint] = []
    for checkpoint in plan.thin:
        if run.holds(checkpoint):
            spared.append(checkpoint)
            continue
        try:
            run.thin(checkpoint, "; ".join(plan.reasons(checkpoint.generation)), dispose)
        except OSError as error:
            logger.warning("%s stays whole: %s", checkpoint.name, error)
            not_thinned.append(checkpoint)
            continue
        thinned.append(checkpoint)
        if on_done is not None:
            on_done(checkpoint)
    return Pruned(
        tuple(removed[False]), tuple(spared), tuple(thinned), tuple(not_thinned), removed_aside=tuple(removed[True])
    )
