"""How a training comes into a directory: into its run, a new one, or not at all; and where it goes on from."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from keepstep import layout
from keepstep.errors import KeepstepError, RunInUse, RunNotFound, StorageError
from keepstep.model import parse_name
from keepstep.repository import Check, Repository
from keepstep.retention import Policy
from keepstep.run import Reference, ResumePoint, Run, external_path
from keepstep.stores import LocalStore

logger = logging.getLogger("keepstep")

Fresh = Literal["refuse", "new-run"]
Resume = Reference | Literal[False] | None
"""What a training is to resume from; None and False are a fresh start."""


def enter(path: Path, policy: Policy, resume: Resume, *, fresh: Fresh) -> Run:
    """The run of a directory, locked and recovered; a new one where there is none, or `fresh` asks for it.

    Raises RunInUse for a directory whose checkpoints this training would not go on from, RunLocked, StorageError for
    one that can't be written.
    """
    with _as_unwritable(path):
        run = _open_or_create(path, policy, resume, fresh)
        run.begin_writing()
    return run


def _open_or_create(path: Path, policy: Policy, resume: Resume, fresh: Fresh) -> Run:
    try:
        run = Run.open(path)
    except RunNotFound:
        present = _stock_checkpoints(path)
        if present and external_path(resume, path) is None:
            if fresh != "new-run" or not (_is_fresh(resume) or resume == "auto"):
                raise _used(path, present, "that keepstep did not commit", ways=_BY_PATH) from None
            Repository(LocalStore(path), "").set_aside_everything(f"{layout.PREVIOUS}/stock-{_short_id()}")
        return Run.create(path, policy)
    if not _is_fresh(resume):
        return run
    listing = run.repository.listing()
    present = [checkpoint.name for checkpoint in listing.checkpoints]
    foreign = [directory.path.name for directory in listing.foreign]
    if fresh == "new-run" and (present or foreign or run.store.exists(f"{layout.PREVIOUS}/{run.id}")):
        return _new_run(path, policy, run)
    if present:
        raise _used(path, present, "and this start would not resume from them", ways=_AUTO + _BY_PATH)
    if foreign:
        raise _used(path, foreign, f"that can't be used ({listing.foreign[0].reason})", ways=_BY_PATH)
    return run


def _new_run(path: Path, policy: Policy, old: Run) -> Run:
    """Set the old run aside as a whole, and begin a new one in the same directory."""
    home = f"{layout.PREVIOUS}/{old.id}"
    if old.store.exists(home):  # an earlier attempt was killed
        home += f"-{_short_id()}"
    with old.writing():
        old.repository.set_aside_everything(home)
        # The identity goes last: until then the old run goes on, with generations that nothing else names.
        for key in (layout.QUARANTINE, layout.TIMELINES, layout.PINS, layout.METRICS, layout.EVENTS, layout.RUN):
            if old.store.exists(key):
                old.repository.move(key, f"{home}/{layout.META}")
    logger.warning("The run that was in %s is set aside, whole, in %s", path, path / home)
    return Run.create(path, policy)


def resume_point(run: Run, resume: Resume, check: Check | None = None) -> ResumePoint | None:
    """Where a training of this run goes on from, None for a fresh start; what was passed over is said and set aside.

    Raises CheckpointNotFound, ResumeRefused.
    """
    if resume is None or resume is False:
        return None
    reference = "latest" if resume is True else resume
    listing = run.repository.listing()
    if reference == "auto" and not (listing.checkpoints or listing.foreign):
        return None
    point = run.resume_point(reference, check=check)
    for verification in point.passed_over:
        where = run.quarantine(verification)
        logger.warning(
            "%s. Resuming from step %d instead. It is kept in %s",
            verification.summary(),
            point.checkpoint.step,
            where,
        )
    if reference in ("auto", "latest"):
        step = point.checkpoint.step
        unusable = tuple(foreign for foreign in listing.foreign if _step_of(foreign.path) > step)
        for foreign in unusable:
            text = "%s is no resume point: %s. Resuming from step %d instead."
            logger.warning(text, foreign.path, foreign.reason, step)
        point = replace(point, unusable=unusable)
    return point


@contextmanager
def _as_unwritable(path: Path) -> Generator[None]:
    try:
        yield
    except KeepstepError:
        raise
    except OSError as error:
        raise StorageError(
            f"{path} can't be written: {error.strerror or error}",
            hint="Give an output_dir that this user can write.",
            errno=error.errno,
        ) from error


def _is_fresh(resume: Reference | Literal[False] | None) -> bool:
    return resume is None or resume is False


def _stock_checkpoints(path: Path) -> list[str]:
    if not path.is_dir():
        return []
    found = [(parsed[1], child.name) for child in path.iterdir() if (parsed := parse_name(child.name))]
    return [name for _, name in sorted(found)]


def _step_of(path: Path) -> int:
    parsed = parse_name(path.name)
    return parsed[1] if parsed else -1


_AUTO = 'Go on from the newest: train(resume_from_checkpoint="auto"). '
_BY_PATH = 'Go on from a certain one: train(resume_from_checkpoint="{last}"). '
_ANEW = 'Begin anew and set the old ones aside, whole: attach(trainer, fresh="new-run"). Or give another output_dir.'


def _used(path: Path, present: list[str], why: str, *, ways: str) -> RunInUse:
    names = present[0] if len(present) == 1 else f"{present[0]} to {present[-1]}"
    count = "a checkpoint" if len(present) == 1 else f"{len(present)} checkpoints"
    hint = ways.format(last=path / present[-1]) + _ANEW
    return RunInUse(f"{path} already holds {count} ({names}) {why}", hint=hint)


def _short_id() -> str:
    return uuid.uuid4().hex[:8]
