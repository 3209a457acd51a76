"""How a training comes into a directory: into its run, a new one, or not at all; and where it goes on from."""

from __future__ import annotations

import logging
import os
import shlex
import uuid
from collections.abc import Generator, Sized
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from msgspec.structs import replace

from keepstep import layout
from keepstep.checkpointer.own_runs import is_own
from keepstep.errors import KeepstepError, RunInUse, RunNotFound, StorageError
from keepstep.model import Checkpoint, State, parse_name
from keepstep.operations.adopting import NothingToAdopt, adopt, is_half_adopted, plan_adoption
from keepstep.repository import Check, Repository
from keepstep.retention import Policy
from keepstep.run import Reference, Resume, ResumePoint, Run, external_path, finish_pending, has_ended
from keepstep.stores import LocalStore, denied
from keepstep.units import format_size

logger = logging.getLogger("keepstep")

Fresh = Literal["refuse", "new-run"]


def enter(path: Path, policy: Policy, resume: Resume, *, fresh: Fresh) -> Run:
    """The run of a directory, locked and recovered; a new one where there is none, or a fresh start sets the old aside.

    That it does with a run that this process has trained itself, with one that has ended, and where `fresh` asks for
    it. Raises RunInUse for any other whose checkpoints this training would not go on from, RunLocked, StorageError for
    a directory that can't be written.
    """
    with _as_unwritable(path):
        if finish_pending(path):
            logger.warning("A restore in %s that was killed is completed: a previous run is back in it", path)
        run = _open_or_create(path, policy, resume, fresh)
        if not run.lock.held:
            run.begin_writing()
    return run


def why_displaced(run: Run, point: ResumePoint, fresh: Fresh) -> str:
    """Why the run of a directory goes aside for a training that goes on from a checkpoint of another one: as for a
    fresh start. Empty where nothing lies there, and where the checkpoint itself does. Raises RunInUse.
    """
    if not run.checkpoints or _goes_along(point.path, run.path):
        return ""
    return _why_new(run, fresh)


def begin_anew(old: Run, policy: Policy, why: str, *, what: str = "A fresh start") -> Run:
    """Set a run that is locked aside, as a whole, for a new one in its directory; returns that, locked."""
    path, home = old.path, f"{layout.PREVIOUS}/{old.id}"
    if old.store.exists(home):  # an earlier attempt was killed
        home += f"-{_short_id()}"
    try:
        checkpoints = old.checkpoints
        names = old.repository.set_aside_everything(home)
        # The identity goes last: until then the old run goes on, with generations that nothing else names.
        for key in (layout.QUARANTINE, layout.TIMELINES, layout.PINS, layout.METRICS, layout.EVENTS, layout.RUN):
            if old.store.exists(key):
                old.repository.move(key, f"{home}/{layout.META}")
    finally:
        old.lock.release()
    run = Run.create(path, policy)
    size = sum(checkpoint.size_bytes for checkpoint in checkpoints)
    steps = [checkpoint.step for checkpoint in checkpoints]
    run.events.append("set_aside", run_id=old.id, path=home, steps=steps, size_bytes=size, why=why)
    logger.warning(
        "%s in %s: the run that was there (%s, %s; %s) is set aside, whole, in %s%s",
        what, path, _count(names), format_size(size), why, path / home, _ways_back(path, home, checkpoints),
    )  # fmt: skip
    run.begin_writing()
    return run


def reopen(path: Path, run_id: str | None) -> Run:
    """The run of that id, in its directory or where a later fresh start has set it aside; None: whichever is there.

    Raises RunNotFound.
    """
    run = Run.open(path)
    if run_id is None or run.id == run_id:
        return run
    for previous in run.previous_runs.runs:
        if previous.run_id == run_id:
            return Run.open(path / previous.home)
    raise RunNotFound(
        f"the run {run_id} is no longer in {path}: {run.id} took its place, and nothing is left of it",
        hint=f"Why it went: keepstep events {path}",
    )


def _open_or_create(path: Path, policy: Policy, resume: Resume, fresh: Fresh) -> Run:
    try:
        run = Run.open(path)
    except RunNotFound:
        present = _stock_checkpoints(path)
        if present and (adopted := _adopted(path, resume, policy)) is not None:
            return adopted
        if present and external_path(resume, path) is None:
            if fresh != "new-run" or not (_is_fresh(resume) or resume == "auto"):
                raise _used(path, present, "that keepstep did not commit", ways=_BY_PATH) from None
            Repository(LocalStore(path), "").set_aside_everything(f"{layout.PREVIOUS}/stock-{_short_id()}")
        return Run.create(path, policy)
    if is_half_adopted(path) and (adopted := _adopted(path, resume, policy)) is not None:
        return adopted
    if run.rebuilt is not None:
        logger.warning("%s", run.rebuilt)
    if not _is_fresh(resume):
        return run
    listing = run.repository.listing()
    present = [checkpoint.name for checkpoint in listing.checkpoints]
    foreign = [directory.path.name for directory in listing.foreign]
    killed = fresh == "new-run" and run.store.exists(f"{layout.PREVIOUS}/{run.id}")
    if not (present or foreign or killed):
        return run
    why = _why_new(run, fresh)
    run.begin_writing()
    return begin_anew(run, policy, why)


def _adopted(path: Path, resume: Resume, policy: Policy) -> Run | None:
    """The run that is made of what others wrote in the directory, where a training goes on from one of these; None
    where it begins, or goes on from elsewhere, or nothing there is whole.
    """
    if _is_fresh(resume):
        return None
    outside = external_path(resume, path)
    if outside is not None and outside.resolve().parent != path.resolve():
        return None
    try:
        found = plan_adoption(path)
    except NothingToAdopt:
        return None
    if outside is not None and outside.resolve() not in {c.path.resolve() for c in found.checkpoints if c.path}:
        return None
    what = f"{_count(found.checkpoints)}, {format_size(found.size_bytes)} to hash"
    text = "%s has checkpoints that keepstep did not commit: it adopts them (%s). They are kept as its own are: %s"
    logger.warning(text, path, what, policy.describe())
    for torn in found.torn:
        logger.warning("%s is left as it is: %s", torn.checkpoint.path, "; ".join(torn.flaws))
    return adopt(found)


def _why_new(run: Run, fresh: Fresh) -> str:
    """Why a start that does not go on from a run's checkpoints is no forgotten resume. Raises RunInUse where it may
    be one.
    """
    if fresh == "new-run":
        return 'fresh="new-run" asks for it'
    if is_own(run):
        return "this process trained it"
    if has_ended(run):
        return "it had ended"
    listing = run.repository.listing()
    if present := [checkpoint.name for checkpoint in listing.checkpoints]:
        why = "of a run that has not ended, and this start would not resume from them"
        raise _used(run.path, present, why, ways=_AUTO + _BY_PATH)
    foreign = [directory.path.name for directory in listing.foreign]
    raise _used(run.path, foreign, f"that can't be used ({listing.foreign[0].reason})", ways=_BY_PATH)


def _goes_along(path: Path, run: Path) -> bool:
    """True for a directory that would be moved with the run, were that set aside."""
    place, home = Path(os.path.realpath(path)), Path(os.path.realpath(run))
    return place.is_relative_to(home) and not place.is_relative_to(home / layout.PREVIOUS)


def _ways_back(path: Path, home: str, checkpoints: tuple[Checkpoint, ...]) -> str:
    """How to go on from what was set aside, and how to be rid of it."""
    newest = next((checkpoint.name for checkpoint in reversed(checkpoints) if checkpoint.resumable), None)
    ways = [f'train(resume_from_checkpoint="{path / home / newest}") goes on from it'] if newest else []
    ways += [f"keepstep prune {shlex.quote(str(path))} --previous removes it"] if checkpoints else []
    return "".join(f"; {way}" for way in ways)


def _count(checkpoints: Sized) -> str:
    return "a checkpoint" if len(checkpoints) == 1 else f"{len(checkpoints)} checkpoints"


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
            "%s. Resuming from step %d instead. It is kept in %s. %s",
            verification.summary(),
            point.checkpoint.step,
            where,
            verification.way_out(where),
        )
    if reference in ("auto", "latest"):
        step = point.checkpoint.step
        unusable = tuple(foreign for foreign in listing.foreign if _step_of(foreign.path) > step)
        for foreign in unusable:
            text = "%s is no resume point: %s. Resuming from step %d instead."
            logger.warning(text, foreign.path, foreign.reason, step)
        point = replace(point, unusable=(*point.unusable, *unusable))
    return point


def come_back(run: Run, checkpoint: Checkpoint) -> Checkpoint:
    """A resume point of the run where a training goes on from it: one that lay aside is brought back, which is said."""
    if checkpoint.state is State.COMMITTED:
        return checkpoint
    what = run.way_back(checkpoint, alone=True)
    left = f"; {_count(what.aside)} of the course that was there set aside" if what.aside else ""
    back = run.bring_back(what)
    logger.warning("%s comes back from %s: the training goes on from it%s", back.name, checkpoint.path, left)
    return back


@contextmanager
def _as_unwritable(path: Path) -> Generator[None]:
    try:
        yield
    except KeepstepError:
        raise
    except PermissionError as error:
        raise denied(error.filename or path, error, write=True) from error
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
    hint = ways.format(last=path / present[-1]) + _ANEW
    return RunInUse(f"{path} already holds {_count(present)} ({names}) {why}", hint=hint)


def _short_id() -> str:
    return uuid.uuid4().hex[:8]
