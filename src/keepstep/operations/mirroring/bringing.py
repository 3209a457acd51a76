"""A checkpoint of a mirror, brought to a disk: as a run, or back into one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from keepstep.errors import CheckpointCorrupt, CheckpointNotFound, RunInUse
from keepstep.mirror import Mirror, OnBytes, Record, pull, read_notes
from keepstep.model import Checkpoint, FileEntry
from keepstep.operations.mirroring.syncing import row
from keepstep.retention import rank
from keepstep.run import Run, arrive, holds_run, open_run, policy_said

JOBS = 8


@dataclass(frozen=True, slots=True)
class Bringing:
    """What would come: the commit, where to, and why none does (`settled`, in words) where the run here is newer."""

    record: Record
    target: Path
    settled: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**row(self.record), "target": str(self.target), "settled": self.settled}


def plan_pull(mirror: Mirror, target: Path, reference: str) -> Bringing:
    """What `reference` ("latest", "best", a step, `gen:N`) would bring. Raises CheckpointNotFound, RunInUse."""
    mirror.run_id()
    record = (
        _best(mirror) if reference == "best" else _latest(mirror) if reference == "latest" else mirror.find(reference)
    )
    settled = ""
    if holds_run(target):
        run = open_run(target)
        if not run.managed or run.id != record.checkpoint.run_id:
            raise RunInUse(f"{target} holds another run", hint="Give another directory.")
        newest = max((c.generation for c in run.checkpoints if c.resumable), default=0)
        if any(c.generation == record.name.generation for c in run.checkpoints):
            settled = f"it is there already, as {record.checkpoint.name}"
        elif reference == "latest" and newest > record.name.generation:
            settled = "the run there has a newer one"
    return Bringing(record, target, settled)


def bring(
    mirror: Mirror,
    found: Bringing,
    *,
    jobs: int = JOBS,
    on_start: Callable[[str], None] | None = None,
    on_bytes: OnBytes | None = None,
    on_damage: Callable[[str], None] | None = None,
    older: bool = False,
) -> Checkpoint | None:
    """Carry it out; returns the checkpoint as it lies here. With `older`, one whose bytes are damaged there is passed
    over for the next older that can be resumed from, which `on_damage` hears of; None where what is here is as new.

    Raises CheckpointCorrupt, RunLocked, StorageError, MirrorUnavailable.
    """
    record = found.record
    while True:
        if on_start is not None:
            on_start(record.checkpoint.name)
        try:
            here = _bring(mirror, record, found.target, jobs, on_bytes)
        except CheckpointCorrupt as error:
            following = _older(mirror, record) if older else None
            newest = _newest_in(found.target) if older else None
            if following is None and newest is None:
                raise
            if on_damage is not None:
                on_damage(f"{error.message}: step {record.checkpoint.step} is passed over")
            if newest is not None and (following is None or following.name.generation <= newest.generation):
                _keep_clear(mirror, found.target, newest)
                return None
            assert following is not None
            record = following
            continue
        _keep_clear(mirror, found.target, here)
        return here


def _bring(mirror: Mirror, record: Record, target: Path, jobs: int, on_bytes: OnBytes | None) -> Checkpoint:
    def fill(directory: Path) -> Mapping[str, FileEntry]:
        return pull(mirror, record, directory, jobs=jobs, on_bytes=on_bytes)

    return arrive(target, replace(record.checkpoint, path=None), mirror.url, fill, read_notes(mirror))


def _newest_in(target: Path) -> Checkpoint | None:
    """The newest that the run at `target` can be resumed from; None where there is none."""
    if not holds_run(target):
        return None
    whole = (c for c in open_run(target).checkpoints if c.resumable and not (c.damage or c.lost))
    return max(whole, key=lambda c: c.generation, default=None)


def _keep_clear(mirror: Mirror, target: Path, here: Checkpoint) -> None:
    """What is newer there, and did not come, keeps its generation: a commit here that took it would never be sent."""
    newest = next(mirror.names(), None)
    if newest is not None and newest.generation > here.generation:
        Run.open(target).events.append("mirror_ahead", generation=newest.generation, url=mirror.url)


def _latest(mirror: Mirror) -> Record:
    found = mirror.newest(resumable=True) or mirror.newest()
    return mirror.find("latest") if found is None else found


def _older(mirror: Mirror, record: Record) -> Record | None:
    older = (r for r in mirror.records() if r.name.generation < record.name.generation)
    return next((r for r in older if r.checkpoint.resumable), None)


def _best(mirror: Mirror) -> Record:
    """The best by the metric that the newest manifest names."""
    records = mirror.records()
    metric = policy_said([record.checkpoint for record in reversed(records)]).metric if records else None
    late = read_notes(mirror).late
    known = [record.checkpoint.with_metrics(late.get(record.name.generation, {})) for record in records]
    ranked = rank(known, metric) if metric is not None else ()
    if not ranked:
        why = "it is empty" if not records else "its run ranks by no metric that a checkpoint there has"
        raise CheckpointNotFound(f"{mirror.url} has no best: {why}", hint="Name latest, a step or gen:N.")
    return next(record for record in records if record.name.generation == ranked[0].generation)
