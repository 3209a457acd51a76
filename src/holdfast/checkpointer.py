"""The facade that a training loop holds: begin, save, record metrics, close."""

from __future__ import annotations

import errno
import logging
import os
import time
import uuid
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from holdfast import layout
from holdfast.background import BackgroundWriter, BackPressure
from holdfast.errors import DiskFull, HoldfastError, RunInUse, RunNotFound, SettingsError, StorageError
from holdfast.external import external_path, open_external
from holdfast.headroom import Headroom, Limits, OnDiskFull
from holdfast.inflight import Finish, InFlight, as_storage_error
from holdfast.janitor import Janitor
from holdfast.model import Checkpoint, Kind, parse_name
from holdfast.operations import prune
from holdfast.receipt import Receipt
from holdfast.references import Reference
from holdfast.repository import Repository, Staging
from holdfast.retention import Plan, Policy, fit
from holdfast.run import ResumePoint, Run
from holdfast.stores import LocalStore
from holdfast.units import format_size, parse_size
from holdfast.verification import Check

logger = logging.getLogger("holdfast")

T = TypeVar("T")
Fresh = Literal["refuse", "new-run"]
Stage = Callable[[Path], Finish]
"""Fills a directory with what must be written now; returns what can be written later."""
OnCommit = Callable[[Checkpoint, float], None]
"""Hears, in the writer's thread, of a committed checkpoint and of the moment (`time.monotonic`) it became durable."""
Writer = Callable[[Path], None]
"""Writes one checkpoint's files into the directory it is given. It may be called a second time."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a checkpoint says of itself beside its bytes.

    `step` in optimizer steps; `epoch` as the trainer counts it; `metrics` known now; `written_by` versions,
    world size, dtype, parameter count; `fingerprint` what a resume is compared with.
    """

    step: int
    epoch: float | None = None
    kind: Kind = Kind.FULL
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    written_by: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fingerprint: Mapping[str, Any] = field(default_factory=dict[str, Any])


class Checkpointer:
    """Saves, keeps and finds the checkpoints of one run directory for one training process.

    `budget` ("200GB") bounds what the checkpoints take, the one being written included; `min_free` stays free on
    the disk. Where room is short, it is made by policy; where it can't be, `save` raises DiskFull before it writes, or
    waits for room with `on_disk_full="pause"`. `refused` are the steps that were not saved for lack of room.
    `receipt` says, after a resume, how exact it is and why (None before, and after a fresh start); `plan` is what
    the policy decided last.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        policy: Policy | str,
        *,
        fresh: Fresh = "refuse",
        back_pressure: BackPressure = "wait",
        budget: str | None = None,
        min_free: str | None = None,
        on_disk_full: OnDiskFull = "finish",
    ) -> None:
        self.path = Path(path)
        self.headroom = Headroom(_limits(budget, min_free, on_disk_full))
        self.refused: list[int] = []
        self.policy = Policy.from_spec(policy) if isinstance(policy, str) else policy
        self.fresh: Fresh = fresh
        self.back_pressure: BackPressure = back_pressure
        self.receipt: Receipt | None = None
        self.plan: Plan | None = None
        self._run: Run | None = None
        self._parent: int | None = None
        self._resumed_from: int | None = None
        self._unsettled: ResumePoint | None = None
        self._writer = BackgroundWriter()
        self._janitor: Janitor | None = None
        self._in_flight: InFlight | None = None
        self._owed = False

    @property
    def run(self) -> Run:
        """The run on disk. Raises RunNotFound before the first training begins."""
        return self._run if self._run is not None else Run.open(self.path)

    # -- beginning and ending ----------------------------------------------------------------------------

    def begin(
        self, resume: Reference | Literal[False] | None, *, settle: bool = True, check: Check | None = None
    ) -> ResumePoint | None:
        """Take the run for this process; returns where to resume from, None for a fresh start.

        `None`/`False` is a fresh start; `True` and `"latest"` the newest verified checkpoint, an error when there
        is none; `"auto"` the newest verified one, or a fresh start in an unused directory; anything else names one.
        With `settle=False` a caller that may still refuse the resume calls `settle` once it is sure. `check` verifies
        candidates in place of `Run.verify`, for a caller that keeps what it reads.
        Raises RunLocked, RunInUse, CheckpointNotFound, ResumeRefused.
        """
        self.receipt = None
        outside = external_path(resume, self.path)
        with _as_unwritable(self.path):
            run = self._open_or_create(resume)
            run.begin_writing()
        try:
            point = open_external(outside, check) if outside is not None else self._resume_point(run, resume, check)
            run.set_policy(self.policy)
            self._run = run
            self._janitor = Janitor(run.store)
            self._owed = False
            self.refused = []
            known = run.checkpoints
            for checkpoint in [c for c in known if c.resumable][-1:] or known[-1:]:
                self.headroom.learn(checkpoint)
            self._unsettled = point if outside is None else None
            self._parent = self._unsettled.checkpoint.generation if self._unsettled else None
            self._resumed_from = None
            if settle:
                self.settle()
        except BaseException:
            self._run = None
            run.lock.release()
            raise
        return point

    def settle(self) -> None:
        """Make the resume final: what is newer than the resume point belongs to an older course, and is set aside."""
        point, self._unsettled = self._unsettled, None
        if point is None:
            return
        for checkpoint in self.run.rewind(point.checkpoint):
            logger.warning("%s belongs to an older course of the run and is set aside", checkpoint.name)
        self._resumed_from = point.checkpoint.generation

    def close(self) -> None:
        """End the session: wait for what is in flight, apply the policy once more, now without regard to what was
        resumed from, and unlock. Raises what a save in the background failed with.
        """
        run = self._run
        if run is None:
            return
        try:
            self._writer.wait()
            if self._resumed_from is not None:
                self._resumed_from = None
                prune.apply(run, self._planned())
        finally:
            if self._janitor is not None:
                self._janitor.finish()
            self._run = self._janitor = self._in_flight = None
            run.lock.release()

    def _open_or_create(self, resume: Reference | Literal[False] | None) -> Run:
        try:
            run = Run.open(self.path)
        except RunNotFound:
            present = _stock_checkpoints(self.path)
            if present and external_path(resume, self.path) is None:
                if self.fresh != "new-run" or not (_is_fresh(resume) or resume == "auto"):
                    raise _used(self.path, present, "that holdfast did not commit", ways=_BY_PATH) from None
                Repository(LocalStore(self.path), "").set_aside_everything(f"{layout.PREVIOUS}/stock-{_short_id()}")
            return Run.create(self.path, self.policy)
        if not _is_fresh(resume):
            return run
        listing = run.repository.listing()
        present = [checkpoint.name for checkpoint in listing.checkpoints]
        foreign = [directory.path.name for directory in listing.foreign]
        if self.fresh == "new-run" and (present or foreign or run.store.exists(f"{layout.PREVIOUS}/{run.id}")):
            return self._new_run(run)
        if present:
            raise _used(self.path, present, "and this start would not resume from them", ways=_AUTO + _BY_PATH)
        if foreign:
            raise _used(self.path, foreign, f"that can't be used ({listing.foreign[0].reason})", ways=_BY_PATH)
        return run

    def _new_run(self, old: Run) -> Run:
        """Set the old run aside as a whole, and begin a new one in the same directory."""
        home = f"{layout.PREVIOUS}/{old.id}"
        if old.store.exists(home):  # an earlier attempt was killed
            home += f"-{_short_id()}"
        with old.writing():
            old.repository.set_aside_everything(home)
            # The identity goes last: until then the old run goes on, with generations that nothing else names.
            for key in (layout.QUARANTINE, layout.TIMELINES, layout.PINS, layout.EVENTS, layout.RUN):
                if old.store.exists(key):
                    old.repository.move(key, f"{home}/{layout.META}")
        logger.warning("The run that was in %s is set aside, whole, in %s", self.path, self.path / home)
        return Run.create(self.path, self.policy)

    def _resume_point(
        self, run: Run, resume: Reference | Literal[False] | None, check: Check | None
    ) -> ResumePoint | None:
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

    # -- saving ----------------------------------------------------------------------------------------

    def save(self, facts: Facts, write: Writer) -> Checkpoint:
        """Write one checkpoint, commit it, then let the policy remove others; returns the committed one.

        `write` is called with the directory to fill. A failure of the disk throws the attempt away and writes
        anew once. Raises DiskFull where there is no room, StorageError after the second failure, and whatever else
        `write` raises after the first.
        """
        run = self.run
        self.make_room(facts.step)
        draft = self._draft(run, facts)
        try:
            checkpoint = self._attempt(run, draft, write)
        except StorageError as error:
            run.events.append("failed", step=facts.step, error=error.message, retried=True)
            logger.warning("%s Writing it anew.", error.message)
            if error.is_full:
                self.headroom.strike(error)
                self.make_room(facts.step)
            checkpoint = self._attempt(run, draft, write)
        self.committed(checkpoint)
        return checkpoint

    def save_in_background(self, facts: Facts, stage: Stage, on_commit: OnCommit) -> None:
        """Stage one checkpoint now; write it, commit it and apply the policy in a thread.

        `stage` is called with the directory to fill and returns what finishes it there. A save that is in flight is
        waited for first. What fails in that thread is given by `failure`, or raised by the next call, by `wait` and
        by `close`; the caller may save anew from the state of then.
        """
        self._writer.wait()
        run = self.run
        self.make_room(facts.step)
        draft = self._draft(run, facts)
        staging = run.repository.stage()
        try:
            finish = _fill(staging, draft, stage)
        except BaseException:
            run.repository.discard(staging)
            raise
        self._in_flight = InFlight(run, draft, staging, finish)
        self._writer.submit(partial(self._complete, self._in_flight, on_commit), f"the save of step {facts.step}")

    def _complete(self, in_flight: InFlight, on_commit: OnCommit) -> None:
        checkpoint = in_flight.complete()
        durable_at = time.monotonic()
        self.committed(checkpoint)
        on_commit(checkpoint, durable_at)

    def turns_away(self, step: int, *, must: bool = False) -> bool:
        """True when a save that is due is not to begin now, because one is in flight: the back-pressure rule says so.

        `must` is a save that nothing can make up for, such as the last one.
        """
        self._owed = False
        if must or self.back_pressure == "wait" or not self.busy:
            return False
        self._owed = self.back_pressure == "latest"
        self.run.events.append("skipped", step=step, made_up=self._owed)
        return True

    @property
    def owes(self) -> bool:
        """True while a save that was put off has not been made up for."""
        return self._owed

    def committed(self, checkpoint: Checkpoint) -> None:
        """Go on from a committed checkpoint: it is the parent of the next one, and the policy decides anew."""
        self._parent = checkpoint.generation
        self.headroom.learn(checkpoint)
        self.decide()

    def make_room(self, step: int) -> None:
        """Return when there is room for the checkpoint of `step`. Raises DiskFull."""
        self.headroom.make(self.run, self.policy, step, self._planned, self._dispose_now)

    def refuse(self, step: int, error: StorageError) -> None:
        """Go on without the checkpoint of a step that there is no room for; with `on_disk_full="stop"` raise."""
        if self.headroom.limits.on_disk_full == "stop":
            raise error
        self.refused += [] if step in self.refused else [step]
        self.run.events.append("refused", step=step, error=error.message)
        logger.error("STEP %d IS NOT SAVED. %s\n  %s The training goes on.", step, error.message, error.hint)

    def end_well(self) -> None:
        """Raises DiskFull when saves were refused, unless `on_disk_full="continue"`. Call it when all else is done."""
        if not self.refused or self.headroom.limits.on_disk_full == "continue":
            return
        latest = self.run.latest
        newest = f"the newest checkpoint is step {latest.step}" if latest else "there is no checkpoint"
        count = "1 save was" if len(self.refused) == 1 else f"{len(self.refused)} saves were"
        raise DiskFull(
            f"the training is over, but {count} refused for lack of room (step {', '.join(map(str, self.refused))}); "
            f"{newest} in {self.path}",
            hint="The model in memory is that of the end. on_disk_full='continue' ends without this error.",
            errno=errno.ENOSPC,
        )

    def _dispose_now(self) -> None:
        if self._janitor is not None:
            self._janitor.finish()

    def _planned(self) -> Plan:
        """What the policy and the budget say of what is committed now."""
        held = {} if self._resumed_from is None else {self._resumed_from: "resumed from"}
        plan, budget = self.run.plan(self.policy, also_protected=held), self.headroom.limits.budget
        if budget is None:
            return plan
        return fit(plan, budget, self.policy.metric, why=f"over the budget of {format_size(budget)}")

    @property
    def busy(self) -> bool:
        """True while a save is on its way to the disk."""
        return self._writer.busy

    def wait(self) -> None:
        """Return when nothing is in flight. Raises what the last save in the background failed with."""
        self._writer.wait()

    def failure(self, *, wait: bool = False) -> BaseException | None:
        """What the last save in the background failed with, once; None when it did not, or, unless `wait`, is busy."""
        if wait:
            self._writer.join()
        return self._writer.failure()

    def decide(self) -> Plan:
        """Apply the policy to what is committed now; returns the plan that was carried out."""
        plan = self._planned()
        prune.apply(self.run, plan, dispose=self._janitor.dispose if self._janitor else None)
        self.plan = plan
        return plan

    def note_resumed(self, receipt: Receipt) -> None:
        """Keep the receipt of a resume here and in the event log."""
        self.receipt = receipt
        self.run.events.append("resumed", **receipt.to_json())

    def record(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Add metrics to the newest committed checkpoint of `step`; False when that step was not saved."""
        if self._in_flight is not None and self._in_flight.take_late(step, metrics):
            return True
        self._writer.wait()
        found = [c for c in self.run.checkpoints if c.step == step]
        if not found:
            return False
        self.run.record_metrics(found[-1].generation, dict(metrics))
        self.decide()
        return True

    def _draft(self, run: Run, facts: Facts) -> Checkpoint:
        return Checkpoint(
            run_id=run.id,
            generation=run.next_generation(),
            timeline=run.repository.current_timeline(),
            parent=self._parent,
            step=facts.step,
            epoch=facts.epoch,
            kind=facts.kind,
            created=datetime.now(UTC),
            metrics=dict(facts.metrics),
            files=(),
            written_by=facts.written_by,
            fingerprint=facts.fingerprint,
        )

    def _attempt(self, run: Run, draft: Checkpoint, write: Writer) -> Checkpoint:
        staging = run.repository.stage()
        try:
            _fill(staging, draft, write)
            return run.commit(staging, draft)
        except BaseException:
            run.repository.discard(staging)
            raise


def _limits(budget: str | None, min_free: str | None, on_disk_full: OnDiskFull) -> Limits:
    if on_disk_full not in get_args(OnDiskFull):
        raise SettingsError(
            f"on_disk_full is {on_disk_full!r}", hint="It is 'finish' (the default), 'continue', 'pause' or 'stop'."
        )
    return Limits(
        None if budget is None else parse_size(budget, "budget"),
        0 if min_free is None else parse_size(min_free, "min_free"),
        on_disk_full,
    )


def _fill(staging: Staging, draft: Checkpoint, write: Callable[[Path], T]) -> T:
    """Make the checkpoint's own directory and let `write` fill it; returns what that returns."""
    directory = staging.path / draft.name
    with as_storage_error(draft.step):
        directory.mkdir()
        return write(directory)


@contextmanager
def _as_unwritable(path: Path) -> Generator[None]:
    try:
        yield
    except HoldfastError:
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
