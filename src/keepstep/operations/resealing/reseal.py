"""Taking over what a person changed in a checkpoint on purpose: what is sealed is what was shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keepstep.errors import KeepstepError
from keepstep.model import Checkpoint, FileEntry
from keepstep.operations.checking import note
from keepstep.operations.export.choosing import find
from keepstep.operations.resealing.soundness import unsound
from keepstep.repository import Changes, OnBytes, Verification
from keepstep.run import Reference, Run

BY = "keepstep reseal"


class ResealRefused(KeepstepError):
    """A change that no loader could read, or that is another by now."""

    code = "reseal-refused"


@dataclass(frozen=True, slots=True)
class Resealing:
    """What a reseal would take over of a checkpoint, and why it can't be, one sentence for each reason."""

    checkpoint: Checkpoint
    changes: Changes
    refusals: tuple[str, ...]

    @property
    def any(self) -> bool:
        """True when there is something to take over."""
        return self.changes.any

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; sizes in bytes."""
        changes = self.changes
        return {
            "step": self.checkpoint.step,
            "generation": self.checkpoint.generation,
            "path": str(self.checkpoint.path),
            "rewritten": [
                {
                    "path": one.path,
                    "before": {"size_bytes": one.before.size, "digest": one.before.digest},
                    "after": {"size_bytes": one.after.size, "digest": one.after.digest},
                }
                for one in changes.rewritten
            ],
            "added": [{**_json(file), "by": file.by or None} for file in changes.added],
            "removed": [_json(file) for file in changes.removed],
            "left": [{"path": left.path, "why": left.why} for left in changes.left],
            "kind_before": changes.before.kind.value,
            "kind": changes.after.kind.value,
            "manifest_before": changes.manifest_before,
            "refused": list(self.refusals),
        }


def plan_reseal(run: Run, reference: Reference, on_bytes: OnBytes | None = None) -> Resealing:
    """What differs of a checkpoint from its manifest: every byte is read, and nothing is changed.

    One that lies aside is named by its path. Raises CheckpointNotFound, CheckpointCorrupt, OSError.
    """
    checkpoint = find(run, reference)
    changes = run.repository.changes(checkpoint, on_bytes=on_bytes)
    directory = checkpoint.path
    assert directory is not None
    return Resealing(checkpoint, changes, tuple(unsound(directory, changes)))


def reseal(run: Run, shown: Resealing, on_bytes: OnBytes | None = None) -> Checkpoint:
    """Take the run's lock and seal what was shown; returns the checkpoint as it is now.

    Raises RunLocked while a training runs, ResealRefused when no loader could read the outcome, or the files have
    changed since, CheckpointNotFound, StorageError.
    """
    if shown.refusals:
        raise ResealRefused(
            f"step {shown.checkpoint.step} of {run.path} is not resealed: {'; '.join(shown.refusals)}",
            hint="What can't be read by a loader stays damage. Put the files right, or move the checkpoint aside: "
            f"keepstep verify {run.path} {shown.checkpoint.step} --quarantine",
        )
    with run.writing("a reseal"):
        changes = _as_shown(run, shown, on_bytes)
        sealed = run.seal_changes(shown.checkpoint, changes, (BY,))
        # Every byte was read, and is what the new manifest says.
        note(run, Verification(sealed, ()))
        return sealed


def _as_shown(run: Run, shown: Resealing, on_bytes: OnBytes | None) -> Changes:
    """The changes that were shown, read again where a file may have changed in the meantime."""
    checkpoint, before = shown.checkpoint, shown.changes
    now = run.look(checkpoint)
    same = now.stamps.keys() == before.look.stamps.keys() and all(
        before.look.proves(path, stamp) for path, stamp in now.stamps.items()
    )
    key = run.repository.key(checkpoint)
    if same and run.repository.read_manifest(key, checkpoint.state) == before.before:
        return before
    found = run.repository.changes(checkpoint, on_bytes=on_bytes)
    if (found.before, found.after) != (before.before, before.after):
        raise ResealRefused(
            f"{checkpoint.path} changed after it was shown: nothing was sealed", hint="Run it again to see it anew."
        )
    return found


def _json(file: FileEntry) -> dict[str, Any]:
    return {"path": file.path, "size_bytes": file.size, "digest": file.digest}
