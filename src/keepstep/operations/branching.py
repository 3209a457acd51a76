"""A new run from a checkpoint: verified, begun in a directory of its own, and told of in the logs of both."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepstep import layout
from keepstep.errors import CheckpointCorrupt, CheckpointNotFound, DiskFull, ResumeRefused, RunInUse
from keepstep.model import Checkpoint, Kind, parse_name
from keepstep.operations.adopting import ADOPTED
from keepstep.operations.checking import note
from keepstep.repository import OnBytes, missing_files
from keepstep.run import Reference, Run, begin_branch, holds_run
from keepstep.stores import HubSnapshot, LocalStore
from keepstep.units import format_size

WHY = "being branched off"


@dataclass(frozen=True, slots=True)
class Branch:
    """What is to be done: the checkpoint, the new run's directory, and whether its files can be further names of the
    same bytes there; else they are copied.
    """

    run: Run
    checkpoint: Checkpoint
    target: Path
    links: bool

    @property
    def size_bytes(self) -> int:
        """Bytes of the checkpoint."""
        return self.checkpoint.size_bytes

    @property
    def reads_bytes(self) -> int:
        """Bytes that are read for it: verified, or hashed, and copied where there are no links."""
        return self.size_bytes * ((self.run.managed or self.links) + (not self.links))

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; sizes in bytes."""
        one = self.checkpoint
        return {
            "run": str(self.run.path),
            "run_id": one.run_id if self.run.managed else None,
            "step": one.step,
            "generation": one.generation if self.run.managed else None,
            "path": str(one.path),
            "target": str(self.target),
            "links": self.links,
            "size_bytes": self.size_bytes,
        }


def plan_branch(run: Run, reference: Reference, target: Path) -> Branch:
    """What a branch would do; nothing is written.

    Raises CheckpointNotFound; ResumeRefused where nothing can go on from the checkpoint; RunInUse where the directory
    is a run, or lies among keepstep's own files; DiskFull where it must be copied and does not fit.
    """
    checkpoint = run.find(reference, aside=True)
    if checkpoint.kind is not Kind.FULL:
        why = missing_files(checkpoint.lost) if checkpoint.lost else "no optimizer state to resume from"
        raise ResumeRefused(
            f"step {checkpoint.step} of {run.path} holds weights only: {why}",
            hint="Branch off a full one; see them: keepstep ls RUN",
        )
    if os.path.lexists(target) and not target.is_dir():
        raise RunInUse(f"{target} is no directory", hint="Give a directory that is new, or has no run in it.")
    if holds_run(target):
        raise RunInUse(f"{target} is a run already", hint="A branch begins in a directory of its own.")
    real = Path(os.path.realpath(target))
    if layout.META in real.parts or any(parse_name(part) is not None for part in real.parts):
        raise RunInUse(
            f"{target} lies in a checkpoint, or among keepstep's own files", hint="Give a directory beside the run."
        )
    near = next(above for above in (real, *real.parents) if above.is_dir())
    links = not isinstance(run.store, HubSnapshot) and near.stat().st_dev == run.path.stat().st_dev
    free = LocalStore(near).room().free_bytes
    if not links and free < checkpoint.size_bytes:
        raise DiskFull(
            f"{near} has {format_size(free)} free, and the checkpoint {format_size(checkpoint.size_bytes)}: no file of "
            "another file system can be linked to",
            hint="Branch into a directory beside the run: there it takes no room.",
        )
    return Branch(run, checkpoint, target, links)


def branch(plan: Branch, on_start: Callable[[str], None] | None = None, on_bytes: OnBytes | None = None) -> Run:
    """Carry it out; returns the new run. The checkpoint stays where it is meanwhile, and is left as it is.

    Raises CheckpointCorrupt, CheckpointNotFound, RunInUse, RunLocked, StorageError.
    """
    run, checkpoint = plan.run, plan.checkpoint
    with run.reading([checkpoint], WHY):
        say = on_start or _say_nothing
        say("verifying")
        _verify(run, checkpoint, on_bytes if run.managed else None)
        say("linking" if plan.links else "copying")
        adopted = {} if run.managed else {ADOPTED: dict(checkpoint.written_by)}
        new = begin_branch(run.whose(checkpoint), checkpoint, plan.target, on_bytes, **adopted)
    with suppress(OSError):  # a run on a read-only disk can be branched off all the same
        run.whose(checkpoint).events.append(
            "branched", step=checkpoint.step, generation=checkpoint.generation, into_run=new.id,
            path=str(new.path.absolute()),
        )  # fmt: skip
    return new


def linked(plan: Branch, new: Run) -> bool:
    """True where a branch that was carried out has no bytes of its own; a file system may have refused the links."""
    assert plan.checkpoint.path is not None
    there = new.path / plan.checkpoint.name
    names = [file.path for file in plan.checkpoint.files if (there / file.path).exists()]
    return all((plan.checkpoint.path / name).samefile(there / name) for name in names)


def _verify(run: Run, checkpoint: Checkpoint, on_bytes: OnBytes | None) -> None:
    found = run.verify(checkpoint, on_bytes)
    if checkpoint.path is None or not checkpoint.path.is_dir():
        raise CheckpointNotFound(
            f"{checkpoint.path} went away while it was verified", hint="See: keepstep ls RUN --all"
        )
    note(run, found)
    if not found.resumable or found.lost:
        raise CheckpointCorrupt(
            f"{found.summary()}. No run was begun with it",
            hint=f"Branch off another one; see which hold: keepstep verify {run.path}",
        )


def _say_nothing(what: str) -> None:
    return
