"""Pins and tags set by a person: the change, an event, and what holds afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keepstep.errors import CheckpointNotFound
from keepstep.model import Checkpoint
from keepstep.run import Pins, Reference, Run


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
    """Keep a checkpoint whatever the policy says. Raises CheckpointNotFound."""
    return _change(run, reference, run.pin_board.pin, "pinned")


def unpin(run: Run, reference: Reference) -> Pinning:
    """Let the policy decide again; the checkpoint's tags go too. Raises CheckpointNotFound."""
    return _change(run, reference, run.pin_board.unpin, "unpinned")


def tag(run: Run, reference: Reference, name: str) -> Pinning:
    """Name a checkpoint, and so keep it; the name moves when another had it. Raises CheckpointNotFound, TagInvalid."""
    return _change(run, reference, lambda generation: run.pin_board.tag(generation, name), "tagged", name=name)


def _change(run: Run, reference: Reference, change: Callable[[int], None], event: str, **fields: str) -> Pinning:
    checkpoint = run.find(reference)
    run.settle()
    before = run.pins
    change(checkpoint.generation)
    pinning = Pinning(checkpoint, before, run.pins)
    if pinning.changed:
        run.events.append(event, step=checkpoint.step, generation=checkpoint.generation, **fields)
    _check_still_there(run, checkpoint)
    return pinning


def _check_still_there(run: Run, checkpoint: Checkpoint) -> None:
    """A training may remove a checkpoint in the moment before its pin is written."""
    if all(c.generation != checkpoint.generation for c in run.checkpoints):
        raise CheckpointNotFound(
            f"step {checkpoint.step} of {run.path} was removed in this moment", hint=f"See: keepstep ls {run.path}"
        )
