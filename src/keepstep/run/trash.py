"""What the trash still has whole: a process was killed between taking a checkpoint away and deleting its manifest."""

from __future__ import annotations

from pathlib import Path

from keepstep import layout
from keepstep.errors import CheckpointCorrupt, CheckpointNotFound
from keepstep.model import Checkpoint, State
from keepstep.run.run import Run


def trashed(run: Run) -> tuple[tuple[Checkpoint, ...], tuple[Path, ...]]:
    """Checkpoints of this run in its trash whose manifest is there, by generation; and the directories without one.

    Of those nothing says what the bytes were: they can't be verified. The next start deletes all of them.
    """
    whole: list[Checkpoint] = []
    rests: list[Path] = []
    for entry in run.store.list(layout.TRASH):
        if entry.kind != "directory":
            continue
        key = f"{layout.TRASH}/{entry.path}"
        try:
            found = run.repository.read_manifest(key, State.SET_ASIDE)
        except (OSError, CheckpointCorrupt):
            rests.append(run.store.local_path(key))
            continue
        if found.run_id == run.id:
            whole.append(found)
    return tuple(sorted(whole, key=lambda checkpoint: checkpoint.generation)), tuple(rests)


def rescue(run: Run, checkpoint: Checkpoint) -> None:
    """Take a checkpoint out of the trash: it is set aside then. Takes the run's lock, and clears nothing.

    Raises RunLocked, CheckpointNotFound when it is gone by now.
    """
    run.lock.acquire()
    try:
        if all(other.path != checkpoint.path for other in trashed(run)[0]):
            raise CheckpointNotFound(f"{checkpoint.path} is gone: the trash was cleared")
        run.repository.set_aside(checkpoint, run.repository.current_timeline())
    finally:
        run.lock.release()
