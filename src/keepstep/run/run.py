"""A run directory and the one door to it: its checkpoints, best and latest, resume point, plan, timeline, events."""

from __future__ import annotations

import os
import uuid
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from keepstep.errors import CheckpointNotFound, KeepstepError, RunNotFound
from keepstep.log import logger
from keepstep.model import Checkpoint, FileEntry, State
from keepstep.repository import (
    Changes,
    Dispose,
    Look,
    Staging,
    Verification,
)
from keepstep.retention import Policy
from keepstep.run import returning, rewinding, swapping
from keepstep.run.events import commit_fields
from keepstep.run.limits import Limits
from keepstep.run.lock import RunLock
from keepstep.run.rebuilding import read_or_rebuild, write_rebuilt
from keepstep.run.returning import Return
from keepstep.run.runfile import RunFile, write_run_file
from keepstep.run.sealing import seal
from keepstep.run.view import RunView
from keepstep.stores import LocalStore, store_at


class Run(RunView):
    """One run directory. Reading needs no lock; what writes says so and must happen inside `writing()`."""

    # -- opening ---------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """The run in a directory; without a readable run.json as its manifests have it (see `rebuilt`).

        Raises RunNotFound, LayoutTooNew, RunFileDamaged where no manifest can take the place of it.
        """
        store = store_at(path if isinstance(path, Path) else Path(path))
        return cls(store.root, *read_or_rebuild(store))

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
    def writing(self, what: str = "") -> Generator[Run]:
        """Hold the run's lock, after clearing what a killed process left. Raises RunLocked; `what` is to be done."""
        self.begin_writing(what)
        try:
            yield self
        finally:
            self.lock.release()

    def begin_writing(self, what: str = "") -> None:
        """Take the lock and recover; `lock.release()` ends it. Raises RunLocked; StorageError in a cache of the Hub."""
        self.lock.acquire(what)
        self._generations_known, self._aside_known = False, None
        self.previous_runs.changed()
        try:
            if swapping.finish(self.store):
                raise KeepstepError(
                    f"a restore that was killed is completed: {self.path} holds another run now",
                    hint="Run it again to see that one.",
                )
            if self.rebuilt is not None:
                self.events.muted = self.readers.muted = False
                self.file, self.rebuilt = write_rebuilt(self.store, self.rebuilt, self.events), None
            done = self.repository.recover()
            self.pin_board.recover()
            self._log_lost_commits()
            self._finish_moves()
        except BaseException:
            self.lock.release()
            raise
        if done:
            self.events.append("recovered", what=done)
        self.point_links()

    def settle(self) -> None:
        """Write run.json where it was rebuilt, before anything else is written. Raises RunLocked."""
        if self.rebuilt is not None:
            with self.writing():
                pass

    # -- writing (inside `writing()`) --------------------------------------------------------------------

    def set_policy(self, policy: Policy, limits: Limits | None = None) -> None:
        """Put a policy in force, and limits where they are given."""
        self._check_lock()
        file = self.file.with_policy(policy, limits)
        if file != self.file:
            write_run_file(self.store, file)
            self.file = file

    def switch_links(self, on: bool) -> None:
        """Have `best` and `latest` as links in the run's directory from now on, or have them removed."""
        self._check_lock()
        try:
            self.links.switch(on)
        except OSError as error:
            logger.warning("%s has no links: %s", self.path, error)
        self.point_links()

    def commit(self, staging: Staging, draft: Checkpoint, written: Mapping[str, FileEntry] | None = None) -> Checkpoint:
        """Commit a staged checkpoint; see `Repository.commit`."""
        self._check_lock()
        old = self.repository.committed(draft.name)
        replaced = [] if old is None else [old.generation]
        checkpoint = self.repository.commit(staging, draft, written)
        for generation in replaced:
            self.pin_board.hand_over(generation, checkpoint.generation)
        self.events.append("committed", **commit_fields(checkpoint, replaced))
        self.point_links()
        return checkpoint

    def look(self, checkpoint: Checkpoint) -> Look:
        """How a checkpoint's files stand now: taken before others may change them, and given to `seal`."""
        return self.repository.look(checkpoint)

    def seal(self, checkpoint: Checkpoint, before: Look | None = None, by: Sequence[str] = ()) -> Checkpoint:
        """Take over what others have added to, rewritten in or taken out of a checkpoint since `before` (None: since
        its commit); returns it as it is now, the same object where nothing changed.

        `by` names who did it, for the event log. Raises CheckpointNotFound when it is gone, StorageError.
        """
        return self.seal_changes(checkpoint, self.repository.changes(checkpoint, before), by)

    def seal_changes(self, checkpoint: Checkpoint, changes: Changes, by: Sequence[str] = ()) -> Checkpoint:
        """Take over changes that were found in a checkpoint; as `seal`."""
        self._check_lock()
        self._aside_known = None
        sealed = seal(self.repository, self.events, changes, by)
        return sealed.with_metrics(checkpoint.metrics) if changes.any else checkpoint

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
        self._late.record(self.events, generation, metrics)
        self.point_links()

    def remove(self, checkpoint: Checkpoint, reason: str, dispose: Dispose | None = None) -> None:
        """Remove one checkpoint, with the reason in the event log; `dispose` may free its bytes later."""
        self._check_lock()
        before = checkpoint.state is State.PREVIOUS
        named = {"previous": checkpoint.run_id} if before else {"generation": checkpoint.generation}
        fields: dict[str, Any] = {"step": checkpoint.step, **named}
        if checkpoint.state is State.COMMITTED:
            self._lead_away(checkpoint)
            self.repository.remove(checkpoint, dispose)
        else:
            fields["state"] = checkpoint.state.value
            self._aside_known = None
            self.previous_runs.changed()
            with suppress(FileNotFoundError):  # people clear these rooms by hand
                self.repository.remove(checkpoint, dispose)
        self.events.append("removed", **fields, size_bytes=checkpoint.size_bytes, reason=reason)
        if before and (home := self.previous_runs.emptied_by(checkpoint)) is not None:
            with suppress(OSError):
                self.repository.clear(home, dispose)
                self.events.append("forgotten", previous=checkpoint.run_id)

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
        self._lead_away(checkpoint, thinned.with_metrics(checkpoint.metrics))
        self.repository.remove(checkpoint, dispose)
        fields = {"step": checkpoint.step, "generation": checkpoint.generation}
        freed = checkpoint.size_bytes - checkpoint.thinned().size_bytes
        self.events.append("thinned", **fields, size_bytes=thinned.size_bytes, freed_bytes=freed, reason=reason)
        return thinned

    def quarantine(self, verification: Verification) -> Path:
        """Move a damaged checkpoint aside; returns where it lies."""
        self._check_lock()
        checkpoint = verification.checkpoint
        self._lead_away(checkpoint)
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
            self.point_links(without=newer)
            timeline = self.repository.current_timeline()
            rewinding.begin(self.store, checkpoint, timeline)
            self._finish_moves()
        return newer

    def way_back(self, checkpoint: Checkpoint, *, alone: bool = False) -> Return:
        """What moves when a checkpoint of this run that lies aside comes back; see `returning.planned`."""
        return returning.planned(
            checkpoint,
            committed=self.checkpoints,
            aside=self.aside,
            events=self.events.read(),
            timeline=self.repository.current_timeline(),
            alone=alone,
        )

    def bring_back(self, what: Return) -> Checkpoint:
        """Carry out a return, as `returning` planned it; returns the checkpoint where it is now.

        The intent is on disk before the first move, so that a crash in between is completed at the next start.
        """
        self._check_lock()
        self.point_links(without=what.aside)
        returning.begin(self.store, self.repository, what)
        self._finish_moves()
        self.point_links()
        found = [c for c in self.checkpoints if c.generation == what.checkpoint.generation]
        if not found:
            raise CheckpointNotFound(f"{what.checkpoint.path} went away while it was brought back")
        return found[0]

    def change_places(self, previous: Run) -> None:
        """Let a previous run of this directory take it back, and this one become a previous one. Both must be locked.

        The intent is on disk before the first move, so that a crash in between is completed at the next start. The
        directory holds another run afterwards: open it anew.
        """
        self._check_lock()
        previous._check_lock()
        self.point_links(without=self.checkpoints)
        swapping.begin(
            self.store,
            left=self.id,
            run_id=previous.id,
            home=previous.path.relative_to(self.path).as_posix(),
            steps=[checkpoint.step for checkpoint in previous.checkpoints],
            steps_aside=[checkpoint.step for checkpoint in self.checkpoints],
        )
        swapping.finish(self.store)

    # -- helpers ---------------------------------------------------------------------------------------

    def _check_lock(self) -> None:
        if not self.lock.held:
            raise KeepstepError(
                f"{self.path} can't be changed without its lock", hint="Begin first, or use `with run.writing():`."
            )

    def _lead_away(self, checkpoint: Checkpoint, beside: Checkpoint | None = None) -> None:
        """Before a checkpoint goes: no link leads to what is not there."""
        if checkpoint.state is State.COMMITTED and self.links.leads_to(checkpoint.name):
            self.point_links(without=[checkpoint], beside=beside)

    def _log_lost_commits(self) -> None:
        """A process that is killed right after a commit logs it no more; what becomes of its course needs it later,
        when the checkpoint itself is gone.
        """
        logged = self.events.last_commit()
        for checkpoint in self.repository.listing().checkpoints:
            if checkpoint.generation > logged:
                self.events.append("committed", time=checkpoint.created, **commit_fields(checkpoint, []))

    def _finish_moves(self) -> None:
        self._aside_known = None
        returning.finish(self.store, self.repository, self.events)
        rewinding.finish(self.store, self.repository, self.events)
