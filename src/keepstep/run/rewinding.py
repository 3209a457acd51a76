"""A rewind: newer siblings become an abandoned timeline, and a crash on the way is made good at the next start."""

from __future__ import annotations

from keepstep import layout
from keepstep.errors import KeepstepError
from keepstep.model import Checkpoint
from keepstep.repository import Repository
from keepstep.run.events import EventLog
from keepstep.stores import Store


def begin(store: Store, checkpoint: Checkpoint, timeline: int) -> None:
    """Put down, durably, that what is newer than a checkpoint goes to a timeline."""
    store.replace(layout.REWIND, f"{checkpoint.generation} {timeline}\n".encode())


def finish(store: Store, repository: Repository, events: EventLog) -> None:
    """Carry out what was put down, if anything was. Raises KeepstepError where that can't be read."""
    try:
        text = store.read(layout.REWIND, limit=layout.SMALL_FILE_LIMIT)
    except FileNotFoundError:
        return
    try:
        generation, timeline = map(int, text.split())
    except ValueError as error:
        raise KeepstepError(
            f"{store.local_path(layout.REWIND)} is damaged, and a rewind was under way",
            hint="Delete it to stay with all checkpoints, or name the one to resume from afterwards.",
        ) from error
    newer = [c for c in repository.listing().checkpoints if c.generation > generation]
    for checkpoint in newer:
        repository.set_aside(checkpoint, timeline)
    steps = [checkpoint.step for checkpoint in newer]
    events.append("timeline", left=timeline, now=timeline + 1, from_generation=generation, set_aside=steps)
    store.delete(layout.REWIND)
    store.sync_directory(layout.META)
