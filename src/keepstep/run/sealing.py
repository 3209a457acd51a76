"""Sealing a checkpoint of a run: what others changed becomes its own, and the event log says what was there before."""

from __future__ import annotations

from collections.abc import Sequence

from keepstep.log import logger
from keepstep.model import Checkpoint
from keepstep.repository import Changes, Repository
from keepstep.run.events import EventLog


def seal(repository: Repository, events: EventLog, changes: Changes, by: Sequence[str]) -> Checkpoint:
    """The checkpoint with these changes sealed into it; an event tells of them where there are any.

    `by` names who made them. Raises StorageError.
    """
    checkpoint = repository.seal(changes)
    for left in changes.left:
        logger.warning("%s: %s %s; it is not sealed", checkpoint.path, left.path, left.why)
    if not changes.any:
        return checkpoint
    events.append(
        "sealed",
        step=checkpoint.step,
        generation=checkpoint.generation,
        added=[file.path for file in changes.added],
        rewritten=[
            {"path": one.path, "before": one.before.digest, "after": one.after.digest} for one in changes.rewritten
        ],
        removed=[file.path for file in changes.removed],
        by=list(by),
        kind=checkpoint.kind.value,
        size_bytes=checkpoint.size_bytes,
        manifest_before=changes.manifest_before,
    )
    return checkpoint
