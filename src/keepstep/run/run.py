"""A run directory and the one door to it: its checkpoints, best and latest, resume point, plan, timeline, events."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from keepstep import layout
from keepstep.errors import FULL, KeepstepError, RunNotFound
from keepstep.model import Checkpoint, FileEntry, State
from keepstep.repository import Check, Dispose, Foreign, Listing, OnBytes, Repository, Staging, Verification
from keepstep.retention import RECOVERY_POINT, Plan, Policy, fit, make_plan, rank
from keepstep.run.events import EventLog
from keepstep.run.joining import Joiner
from keepstep.run.limits import Limits
from keepstep.run.lock import RunLock
from keepstep.run.pins import PinBoard, Pins
from keepstep.run.readers import Readers
from keepstep.run.references import Known, Reference, resolve
from keepstep.run.resume_point import ResumePoint, named, newest
from keepstep.run.runfile import RunFile, read_run_file, write_run_file
from keepstep.stores import LocalStore
from keepstep.units import format_size

logger = logging.getLogger("keepstep")


class Run:
    """One run directory. Reading needs no lock; what writes says so and must happen inside `writing()`."""

    def __init__(self, path: Path, file: RunFile) -> None:
        self.path = path
        self.file = file
        self.store = LocalStore(path)
        self.repository = Repository(self.store, file.run_id)
        self.events = EventLog(self.store)
        self.pin_board = PinBoard(self.store)
        self.readers = Readers(self.store)
        self.lock = RunLock(self.store)
        self._joiner = Joiner()
        self._generations_known = False
        self._aside_known: tuple[Checkpoint, ...] | None = None
        self._unwritten: list[tuple[int, dict[str, float]]] = []

    # -- opening ---------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """The run in a directory. Raises RunNotFound, LayoutTooNew, KeepstepError (damaged run.json)."""
        return cls(Path(path), read_run_file(LocalStore(path if isinstance(path, Path) else Path(path))))

    @classmethod
    def create(cls, path: str | os.PathLike[str], policy: Policy) -> Run:
        """A new run in a directory that has none; makes the directory. The run is on disk on return.

        When another process was faster, the run is the other's. Raises RunLocked.
        """
        store = LocalStore(Path(path))
        lock = RunLock(store)
        lock.acquire()
        try:
            with suppress(RunNotFound):
                return cls.open(path)
            file = RunFile.for_policy(policy, run_id=uuid.uuid4().hex[:16], created=datetime.now(UTC))
            run = cls(Path(path), file)
            run.events.append("run", run_id=file.run_id, keep=file.keep, metric=file.metric, mode=file.mode)
            write_run_file(store, file)
            return run
        finally:
            lock.release()

    @contextmanager
    def writing(self) -> Generator[Run]:
        """Hold the run's lock, after clearing what a killed process left. Raises RunLocked."""
        self.begin_writing()
        try:
            yield self
        finally:
            self.lock.release()

    def begin_writing(self) -> None:
        """Take the lock and recover; `lock.release()` ends it. Raises RunLocked."""
        self.lock.acquire()
        self._generations_known, self._aside_known = False, None
        try:
            done = self.repository.recover()
            self.pin_board.recover()
            self._finish_rewind()
        except BaseException:
            self.lock.release()
            raise
        if done:
            self.events.append("recovered", what=done)

    # -- reading ---------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """Identity of the run; it stays when the directory is moved or copied."""
        return self.file.run_id

    @property
    def policy(self) -> Policy:
        """The retention policy in force."""
        return self.file.policy()

    @property
    def limits(self) -> Limits:
        """Budget, free space and what becomes of a save without room, as the last training was begun with them."""
        return self.file.limits()

    @property
    def pins(self) -> Pins:
        """Pins and tags in force."""
        return self.pin_board.read()

    @property
    def held(self) -> frozenset[int]:
        """Generations that must not go now: pinned, tagged, or being read by somebody."""
        return self.pins.held | self.readers.read().keys()

    def listing(self) -> Listing:
        """`checkpoints` and `foreign` in one look at the disk."""
        listing = self.repository.listing()
        return replace(listing, checkpoints=self._joiner.join(listing.checkpoints, self._late_metrics()))

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Committed checkpoints by generation, with metrics that arrived after the commit."""
        return self.listing().checkpoints

    @property
    def foreign(self) -> tuple[Foreign, ...]:
        """Directories that are called like checkpoints and are none of this run's."""
        return self.repository.listing().foreign

    @property
    def aside(self) -> tuple[Checkpoint, ...]:
        """Checkpoints of abandoned timelines and in quarantine, by generation.

        While this object holds the lock nobody else puts any there, and they are read once.
        """
        if self._aside_known is not None and self.lock.held:
            return self._aside_known
        self._aside_known = Joiner().join(self.repository.aside(), self.events.late_metrics())
        return self._aside_known

    @property
    def latest(self) -> Checkpoint | None:
        """The newest committed checkpoint, None when there is none."""
        return max(self.checkpoints, key=lambda checkpoint: checkpoint.generation, default=None)

    @property
    def best(self) -> Checkpoint | None:
        """The best committed checkpoint by the run's metric (ties: the later), None when none can be ranked."""
        return next(iter(self.ranking()), None)

    def ranking(self) -> tuple[Checkpoint, ...]:
        """Committed checkpoints, best first; without a metric, or without its value, none."""
        metric = self.policy.metric
        return rank(self.checkpoints, metric) if metric else ()

    def find(self, reference: Reference) -> Checkpoint:
        """The checkpoint that `best`, `latest`, a step, `step:N`, a tag or a path names.

        Raises CheckpointNotFound, listing what there is.
        """
        checkpoints = self.checkpoints
        metric = self.policy.metric
        ranked = rank(checkpoints, metric) if metric else ()
        why = f"none has a value of {metric.name}" if metric else "the run has no metric to rank by"
        return resolve(reference, Known(self.path, checkpoints, next(iter(ranked), None), why, self.pins))

    def verify(self, checkpoint: Checkpoint, on_bytes: OnBytes | None = None) -> Verification:
        """Check every byte of a checkpoint against its manifest."""
        return self.repository.verify(checkpoint, on_bytes)

    def note_verified(self, verification: Verification) -> None:
        """Put the outcome of a check into the event log."""
        self.events.append(
            "verified",
            step=verification.checkpoint.step,
            generation=verification.checkpoint.generation,
            ok=verification.ok,
            problems=[str(problem) for problem in verification.problems],
        )

    def resume_point(
        self, reference: Reference = "latest", on_bytes: OnBytes | None = None, *, check: Check | None = None
    ) -> ResumePoint:
        """A verified checkpoint to resume from: the newest that holds, or exactly the one that is named.

        `check` takes the place of `verify`, for a caller that keeps what it reads.
        Raises CheckpointNotFound when there is none, ResumeRefused when the named one can't be resumed from.
        """
        check = check or partial(self.verify, on_bytes=on_bytes)
        listing = self.listing()
        if isinstance(reference, str) and reference in ("auto", "latest"):
            return newest(self.path, listing, check)
        return named(self.path, listing, self.find(reference), reference, check)

    def plan(
        self,
        policy: Policy | None = None,
        *,
        budget: int | None = None,
        checkpoints: tuple[Checkpoint, ...] | None = None,
        also_protected: dict[int, str] | None = None,
    ) -> Plan:
        """What is to be kept and removed now, with reasons: by the run's own policy within its own budget, or by
        `policy`, within `budget` (bytes) alone.

        `checkpoints` are those of a `listing()` that was taken a moment ago, where there is one.
        """
        if checkpoints is None:
            checkpoints = self.checkpoints
        if policy is None and budget is None:
            budget = self.limits.budget
        policy, pinned = policy or self.policy, self.pins.held
        plan = make_plan(
            checkpoints,
            policy,
            aside=self.aside,
            now=datetime.now(UTC),
            pinned=pinned,
            protected=self._protected(checkpoints) | (also_protected or {}),
        )
        if budget is None:
            return plan
        return fit(plan, budget, policy.metric, why=f"over the budget of {format_size(budget)}")

    # -- writing (inside `writing()`) --------------------------------------------------------------------

    def set_policy(self, policy: Policy, limits: Limits | None = None) -> None:
        """Put a policy in force, and limits where they are given."""
        self._check_lock()
        file = self.file.with_policy(policy, limits)
        if file != self.file:
            write_run_file(self.store, file)
            self.file = file

    def commit(self, staging: Staging, draft: Checkpoint, written: Mapping[str, FileEntry] | None = None) -> Checkpoint:
        """Commit a staged checkpoint; see `Repository.commit`."""
        self._check_lock()
        old = self.repository.committed(draft.name)
        replaced = [] if old is None else [old.generation]
        checkpoint = self.repository.commit(staging, draft, written)
        for generation in replaced:
            self.pin_board.hand_over(generation, checkpoint.generation)
        self.events.append(
            "committed",
            step=checkpoint.step,
            generation=checkpoint.generation,
            timeline=checkpoint.timeline,
            kind=checkpoint.kind.value,
            metrics=dict(checkpoint.metrics),
            size_bytes=checkpoint.size_bytes,
            replaces=replaced,
        )
        return checkpoint

    def next_generation(self) -> int:
        """The number of the next commit: above everything that is, or ever was, in this run."""
        if not self._generations_known:
            self.repository.listing()
            self._aside_known = None
            _ = self.aside
            # Until the lock is given back nobody else commits, and every listing adds what it finds.
            self._generations_known = self.lock.held
        return max(self.repository.highest_generation, self.events.last_generation()) + 1

    def record_metrics(self, generation: int, metrics: dict[str, float]) -> None:
        """Metrics of a committed checkpoint that became known after its commit.

        Where the disk is too full for them, they are kept in memory, and written with the next ones.
        """
        self._unwritten.append((generation, metrics))
        try:
            while self._unwritten:
                found = self._unwritten[0]
                self.events.append("metrics", generation=found[0], metrics=found[1])
                self._unwritten.pop(0)
        except OSError as error:
            if error.errno not in FULL:
                raise
            logger.warning("Metrics of %s wait in memory for room on the disk: %s", self.path, error)

    def _late_metrics(self) -> dict[int, dict[str, float]]:
        late = self.events.late_metrics()
        for generation, metrics in self._unwritten:
            late[generation] = {**late.get(generation, {}), **metrics}
        return late

    def remove(self, checkpoint: Checkpoint, reason: str, dispose: Dispose | None = None) -> None:
        """Remove one checkpoint, with the reason in the event log; `dispose` may free its bytes later."""
        self._check_lock()
        fields: dict[str, Any] = {"step": checkpoint.step, "generation": checkpoint.generation}
        if checkpoint.state is State.COMMITTED:
            self.repository.remove(checkpoint, dispose)
        else:
            fields["state"] = checkpoint.state.value
            self._aside_known = None
            with suppress(FileNotFoundError):  # people clear these rooms by hand
                self.repository.remove(checkpoint, dispose)
        self.events.append("removed", **fields, size_bytes=checkpoint.size_bytes, reason=reason)

    def thin(self, checkpoint: Checkpoint, reason: str, dispose: Dispose | None = None) -> Checkpoint:
        """Leave a checkpoint's weights only, of the same generation; returns what is left. Raises StorageError.

        The weights are committed before the full one is removed; pins, tags and late metrics go by generation, and
        stay. `dispose` may free the bytes later.
        """
        self._check_lock()
        old = self.repository.committed(checkpoint.thinned().name)
        thinned = self.repository.thin(checkpoint)
        if old is not None and old.generation != checkpoint.generation:
            self.pin_board.hand_over(old.generation, checkpoint.generation)
        self.repository.remove(checkpoint, dispose)
        fields = {"step": checkpoint.step, "generation": checkpoint.generation}
        freed = checkpoint.size_bytes - thinned.size_bytes
        self.events.append("thinned", **fields, size_bytes=thinned.size_bytes, freed_bytes=freed, reason=reason)
        return thinned

    def quarantine(self, verification: Verification) -> Path:
        """Move a damaged checkpoint aside; returns where it lies."""
        self._check_lock()
        checkpoint = verification.checkpoint
        where = self.repository.quarantine(checkpoint)
        self._aside_known = None
        self.events.append(
            "quarantined",
            step=checkpoint.step,
            generation=checkpoint.generation,
            problems=[str(problem) for problem in verification.problems],
            path=str(where.relative_to(self.path)),
        )
        return where

    def rewind(self, checkpoint: Checkpoint) -> tuple[Checkpoint, ...]:
        """Go on from `checkpoint`: newer siblings become an abandoned timeline. Returns them.

        The intent is on disk before the first move, so that a crash in between is completed at the next start.
        """
        self._check_lock()
        newer = tuple(c for c in self.repository.listing().checkpoints if c.generation > checkpoint.generation)
        if newer:
            timeline = self.repository.current_timeline()
            self.store.replace(layout.REWIND, f"{checkpoint.generation} {timeline}\n".encode())
            self._finish_rewind()
        return newer

    # -- helpers ---------------------------------------------------------------------------------------

    def _check_lock(self) -> None:
        if not self.lock.held:
            raise KeepstepError(
                f"{self.path} can't be changed without its lock", hint="Begin first, or use `with run.writing():`."
            )

    def _finish_rewind(self) -> None:
        try:
            text = self.store.read(layout.REWIND, limit=layout.SMALL_FILE_LIMIT)
        except FileNotFoundError:
            return
        try:
            generation, timeline = map(int, text.split())
        except ValueError as error:
            raise KeepstepError(
                f"{self.store.local_path(layout.REWIND)} is damaged, and a rewind was under way",
                hint="Delete it to stay with all checkpoints, or name the one to resume from afterwards.",
            ) from error
        newer = [c for c in self.repository.listing().checkpoints if c.generation > generation]
        for checkpoint in newer:
            self.repository.set_aside(checkpoint, timeline)
        self._aside_known = None
        steps = [checkpoint.step for checkpoint in newer]
        self.events.append("timeline", left=timeline, now=timeline + 1, from_generation=generation, set_aside=steps)
        self.store.delete(layout.REWIND)
        self.store.sync_directory(layout.META)

    def _protected(self, checkpoints: tuple[Checkpoint, ...]) -> dict[int, str]:
        """The newest resumable checkpoint that is not known to be damaged, and what is being read."""
        damaged = self.events.damaged()
        sound = [c.generation for c in checkpoints if c.resumable and c.generation not in damaged]
        newest = {max(sound): RECOVERY_POINT} if sound else {}
        return self.readers.read() | newest
