"""From what a person names to what is brought back: the course of a checkpoint, or a whole previous run."""

from __future__ import annotations

from pathlib import Path

from keepstep import layout
from keepstep.errors import CheckpointNotFound
from keepstep.model import Checkpoint, State
from keepstep.operations.restoring.aside import lying_aside
from keepstep.operations.restoring.course import CourseBack, newest_of_timeline, plan_course, restore_course
from keepstep.operations.restoring.errors import RestoreRefused
from keepstep.operations.restoring.whole_run import RunBack, plan_run, restore_run
from keepstep.repository import OnBytes
from keepstep.run import Reference, Run, trashed, way_back

Restoration = CourseBack | RunBack
_PREVIOUS = "previous:"


def plan_restore(
    run: Run, reference: Reference | None, timeline: int | None = None, on_bytes: OnBytes | None = None
) -> Restoration:
    """What would be brought back: a checkpoint by its reference, the newest of an abandoned timeline, or a previous run
    by `previous:ID`. Every byte of it is read, and nothing is changed.

    Raises CheckpointNotFound, RestoreRefused.
    """
    if timeline is not None:
        return plan_course(run, _of_timeline(run, timeline), on_bytes)
    assert reference is not None
    if isinstance(reference, str) and reference.strip().startswith(_PREVIOUS):
        name, _, inside = reference.strip().removeprefix(_PREVIOUS).partition("/")
        if inside:
            raise RestoreRefused(
                f"{reference} is one checkpoint of a previous run, and a run comes back whole",
                hint=f"keepstep restore {run.path} {_PREVIOUS}{name}; or train on from that checkpoint in this run: "
                f"train(resume_from_checkpoint={str(run.find(reference, aside=True).path)!r})",
            )
        return plan_run(run, run.find_previous(name), on_bytes)
    checkpoint = _find(run, reference)
    if checkpoint.state is State.COMMITTED:
        raise RestoreRefused(
            f"step {checkpoint.step} (generation {checkpoint.generation}) is in {run.path} already",
            hint=f"To go on from it: train(resume_from_checkpoint={checkpoint.step}). What lies aside: "
            f"keepstep restore {run.path}",
        )
    if checkpoint.state is State.PREVIOUS:
        raise RestoreRefused(
            f"{checkpoint.path} is of a previous run, and a run comes back whole",
            hint=f"keepstep restore {run.path} {way_back(checkpoint).partition('/')[0]}",
        )
    return plan_course(run, checkpoint, on_bytes)


def restore(run: Run, shown: Restoration) -> Path:
    """Carry out what was shown; returns where the checkpoint that a resume would go on from, or that was named, is now.

    Raises RunLocked, RestoreChanged, StorageError.
    """
    if isinstance(shown, RunBack):
        return restore_run(run, shown)
    found = restore_course(run, shown)
    assert found.path is not None
    return found.path


def _find(run: Run, reference: Reference) -> Checkpoint:
    """What a reference names, or what the trash still has of it."""
    try:
        return run.find(reference, aside=True)
    except CheckpointNotFound:
        whole, rests = trashed(run)
        for checkpoint in whole:
            if str(reference).strip() in (way_back(checkpoint), str(checkpoint.path)):
                return checkpoint
        if not rests:
            raise
        lie = ", ".join(map(str, rests))
        raise CheckpointNotFound(
            f"{run.path} has nothing called {str(reference)!r}; in the trash lies a rest without a manifest: nothing "
            "says what its bytes were, so it is not brought back",
            hint=f"Until the next start it can be looked at by hand: {lie}",
        ) from None


def _of_timeline(run: Run, timeline: int) -> Checkpoint:
    home = run.path / layout.TIMELINES / str(timeline)
    found = newest_of_timeline(c for c in run.aside if c.path is not None and c.path.is_relative_to(home))
    if found is None:
        there = ", ".join(part.reference for part in lying_aside(run).parts if part.reference.startswith("--"))
        raise CheckpointNotFound(
            f"{run.path} has nothing set aside of timeline {timeline}", hint=f"There is {there}." if there else ""
        )
    return found
