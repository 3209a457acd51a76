"""Bringing a previous run back into its directory; the run that is there becomes a previous one in its turn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepstep.model import Checkpoint
from keepstep.operations.checking import note
from keepstep.operations.restoring.errors import RestoreChanged, RestoreRefused
from keepstep.repository import OnBytes, PreviousRun, Verification
from keepstep.run import Run


@dataclass(frozen=True, slots=True)
class RunBack:
    """What it would move: the previous run's checkpoints, and those of the run that is there.

    `damaged` ones of the previous run go to its own quarantine first; `resumes_then` is what a resume goes on from
    afterwards.
    """

    previous: PreviousRun
    back: tuple[Checkpoint, ...]
    damaged: tuple[Verification, ...]
    resumes_then: Checkpoint | None
    leaves: tuple[Checkpoint, ...]
    left: str

    @property
    def size_bytes(self) -> int:
        """Bytes of what comes back."""
        return sum(checkpoint.size_bytes for checkpoint in self.back)

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; sizes in bytes."""
        return {
            "kind": "run",
            "run_id": self.previous.run_id,
            "restores": [_json(checkpoint) for checkpoint in self.back],
            "damaged": [
                {**_json(one.checkpoint), "problems": [str(problem) for problem in one.problems]}
                for one in self.damaged
            ],
            "sets_aside": [_json(checkpoint) for checkpoint in self.leaves],
            "leaves": self.left,
            "would_resume_from": None if self.resumes_then is None else self.resumes_then.generation,
            "size_bytes": self.size_bytes,
        }


def plan_run(run: Run, previous: PreviousRun, on_bytes: OnBytes | None = None) -> RunBack:
    """What moves when a previous run comes back: every byte of its checkpoints is read, and nothing is changed.

    Raises RestoreRefused where none of them holds, or while somebody reads them.
    """
    if previous.run_id == run.id:
        raise RestoreRefused(
            f"{run.path / previous.home} is a part of the run that is here: a fresh start was killed on its way",
            hint=f"While no training runs, put its checkpoints back: mv {run.path / previous.home}/*-* {run.path}/",
        )
    old = run.before(previous)
    if reading := {*old.readers.read().values(), *run.readers.read().values()}:
        raise RestoreRefused(
            f"checkpoints of {run.path} are read just now ({', '.join(sorted(reading))}): a restore would move them",
            hint="Try again when that is done.",
        )
    found = [old.verify(checkpoint, on_bytes) for checkpoint in old.checkpoints]
    good = tuple(one.checkpoint for one in found if one.sound)
    if found and not good:
        raise RestoreRefused(
            f"no checkpoint of the previous run {previous.name} holds: " + "; ".join(one.summary() for one in found),
            hint=f"See what is wrong: keepstep verify {old.path}",
        )
    whole = [one.checkpoint for one in found if one.resumable]
    damaged = tuple(one for one in found if not one.sound)
    return RunBack(previous, good, damaged, whole[-1] if whole else None, run.checkpoints, run.id)


def restore_run(run: Run, shown: RunBack) -> Path:
    """Take both runs' locks and let them change places; returns the directory, which is the other run's then.

    Raises RunLocked while a process works in one of them, RestoreChanged when something is another by now, OSError.
    """
    with run.writing("a restore"):
        if _generations(run.checkpoints) != _generations(shown.leaves) or run.id != shown.left:
            raise _changed(run)
        old = Run.open(run.path / shown.previous.home)
        with old.writing("a restore"):
            _set_damaged_apart(old, shown)
            if _generations(old.checkpoints) != _generations(shown.back):
                raise _changed(run)
            run.change_places(old)
    back = Run.open(run.path)
    back.point_links()
    return back.path


def _set_damaged_apart(old: Run, shown: RunBack) -> None:
    for verification in shown.damaged:
        note(old, verification)
        old.quarantine(verification)


def _changed(run: Run) -> RestoreChanged:
    return RestoreChanged(
        f"{run.path} changed after this was shown: nothing was restored", hint="Run it again to see it anew."
    )


def _generations(checkpoints: tuple[Checkpoint, ...]) -> list[int]:
    return [checkpoint.generation for checkpoint in checkpoints]


def _json(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "step": checkpoint.step,
        "generation": checkpoint.generation,
        "size_bytes": checkpoint.size_bytes,
        "path": str(checkpoint.path),
    }
