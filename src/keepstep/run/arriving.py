"""A checkpoint that comes from elsewhere under its own generation: into its run, or into no run yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from keepstep.errors import RunInUse, RunNotFound
from keepstep.model import Checkpoint, FileEntry
from keepstep.run.notes import Notes, take_over
from keepstep.run.opening import holds_run
from keepstep.run.rebuilding import policy_said
from keepstep.run.run import Run
from keepstep.run.runfile import RunFile, write_run_file
from keepstep.stores import LocalStore

Fill = Callable[[Path], Mapping[str, FileEntry]]
"""Makes a directory and fills it; returns its files by path, durable and compared."""


def arrive(target: Path, checkpoint: Checkpoint, origin: str, fill: Fill, notes: Notes | None = None) -> Checkpoint:
    """Commit `checkpoint` in the run at `target`, which begins with it where there is none; returns it as it lies.

    `notes` are what its run knew where it comes from: they are joined with what is known here.

    A kill before the commit leaves a directory that another attempt takes. Raises RunInUse for a directory of another
    run, or where this generation is there already; RunLocked, StorageError, and what `fill` raises.
    """
    begins = not holds_run(target)
    run = _beginning(target, checkpoint) if begins else _own(target, checkpoint)
    run.lock.acquire("bring a checkpoint back") if begins else run.begin_writing("bring a checkpoint back")
    try:
        if begins:
            run.repository.recover()
        if any(checkpoint.generation == one.generation for one in run.repository.listing().checkpoints):
            raise RunInUse(f"{target} has generation {checkpoint.generation} already")
        staging = run.repository.stage()
        try:
            written = fill(staging.path / checkpoint.name)
        except BaseException:
            run.repository.discard(staging)
            raise
        if notes is not None:
            take_over(run, notes, checkpoint.generation, begins=begins)
        if begins and (notes is None or not any(b'"run_id"' in line for line in notes.lines)):
            run.events.append("run", run_id=run.id, keep=run.file.keep, metric=run.file.metric, mode=run.file.mode)
        run.events.append("arrived", step=checkpoint.step, generation=checkpoint.generation, origin=origin)
        arrived = run.commit(staging, checkpoint, written)
        if begins:
            write_run_file(run.store, run.file)
        return arrived
    finally:
        run.lock.release()


def _beginning(target: Path, checkpoint: Checkpoint) -> Run:
    LocalStore(target).make_directory("")
    target.mkdir(parents=True, exist_ok=True)
    file = RunFile.for_policy(policy_said([checkpoint]), run_id=checkpoint.run_id, created=datetime.now(UTC))
    return Run(target, file)


def _own(target: Path, checkpoint: Checkpoint) -> Run:
    try:
        run = Run.open(target)
    except RunNotFound:
        raise RunInUse(
            f"{target} holds checkpoints that others wrote", hint="Give another directory, or adopt them first."
        ) from None
    if run.id != checkpoint.run_id:
        raise RunInUse(
            f"{target} is run {run.id}, and the checkpoint is of run {checkpoint.run_id}",
            hint="Give another directory.",
        )
    return run
