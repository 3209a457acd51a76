"""Pins and tags set by a person: the change, an event, and what holds afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keepstep.errors import CheckpointNotFound
from keepstep.model import Checkpoint
from keepstep.run import PinBoard, Pins, Reference, Run


@dataclass(frozen=True, slots=True)
class Pinning:
    """A checkpoint, and the run's pins and tags before and after."""

    checkpoint: Checkpoint
    before: Pins
    after: Pins

    @property
    def changed(self) -> bool:
        return self.before != self.after

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags of the checkpoint now, sorted."""
        return self.after.names(self.checkpoint.generation)

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines."""
        generation = self.checkpoint.generation
        return {
            "step": self.checkpoint.step,
            "generation": generation,
            "pinned": generation in self.after.pinned,
            "tags": list(self.tags),
            "changed": self.changed,
        }


def pin(run: Run, reference: Reference) -> Pinning:
    """Keep a checkpoint whatever the policy says, and, where it lies aside, however short room is.

    Raises CheckpointNotFound.
    """
    return _change(run, reference, lambda board, generation: board.pin(generation), "pinned")


def unpin(run: Run, reference: Reference) -> Pinning:
    """Let the policy decide again; the checkpoint's tags go too. Raises CheckpointNotFound."""
    return _change(run, reference, lambda board, generation: board.unpin(generation), "unpinned")


def tag(run: Run, reference: Reference, name: str) -> Pinning:
    """Name a checkpoint, and so keep it; the name moves when another had it. Raises CheckpointNotFound, TagInvalid."""
    return _change(run, reference, lambda board, generation: board.tag(generation, name), "tagged", name=name)


def _change(
    run: Run, reference: Reference, change: Callable[[PinBoard, int], None], event: str, **fields: str
) -> Pinning:
    checkpoint = run.find(reference, aside=True)
    run.settle()
    owner = run.whose(checkpoint)  # a previous run has pins of its own
    before = owner.pins
    change(owner.pin_board, checkpoint.generation)
    pinning = Pinning(checkpoint, before, owner.pins)
    if pinning.changed:
        owner.events.append(event, step=checkpoint.step, generation=checkpoint.generation, **fields)
    if all(c.generation != checkpoint.generation for c in (*owner.checkpoints, *owner.aside)):
        # A training may remove a checkpoint in the moment before its pin is written.
        raise CheckpointNotFound(
            f"step {checkpoint.step} of {run.path} was removed in this moment", hint=f"See: keepstep ls {run.path}"
        )
    return pinning
