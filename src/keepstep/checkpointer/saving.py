"""A session's saves: room first, then staged, written and committed, now or in a thread; then the policy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from keepstep.checkpointer.background import BackgroundWriter, BackPressure
from keepstep.checkpointer.cadence import Cadence
from keepstep.checkpointer.drafts import Opened, Writer, attempt_twice, draft_of, open_draft
from keepstep.checkpointer.facts import Facts
from keepstep.checkpointer.foresight import require_room
from keepstep.checkpointer.headroom import Headroom
from keepstep.checkpointer.inflight import InFlight, as_storage_error
from keepstep.checkpointer.judged import Judged
from keepstep.checkpointer.keeping import Keeping
from keepstep.checkpointer.ledger import Ledger
from keepstep.checkpointer.refusals import Refusals
from keepstep.errors import StorageError
from keepstep.model import Checkpoint
from keepstep.repository import Finish
from keepstep.retention import Plan
from keepstep.run import Run

Stage = Callable[[Path], Finish]
"""Fills a directory with what must be written now; returns what can be written later."""
OnCommit = Callable[[Checkpoint, float], None]
"""Hears, in the writer's thread, of a committed checkpoint and of the moment (`time.monotonic`) it became durable."""


class Saving(Ledger):
    """How a checkpointer saves. A save that is in flight is waited for before the next one begins."""

    headroom: Headroom
    cadence: Cadence
    judged: Judged
    back_pressure: BackPressure
    _writer: BackgroundWriter
    _refusals: Refusals
    _in_flight: InFlight | None
    _owed: bool

    def save(self, facts: Facts, write: Writer) -> Checkpoint:
        """Write one checkpoint, commit it, then let the policy remove others; returns the committed one.

        `write` is called with the directory to fill. A failure of the disk throws the attempt away and writes
        anew once. Raises DiskFull where there is no room, StorageError after the second failure, and whatever else
        `write` raises after the first.
        """
        run, began = self.run, time.monotonic()
        self.make_room(facts.step)
        try:
            checkpoint = attempt_twice(run, self._draft(run, facts), write, partial(self._after_failure, facts.step))
        finally:
            self.headroom.tree.release()
        durable = time.monotonic() - began
        self.committed(checkpoint)
        self.note_kept(checkpoint, blocked=time.monotonic() - began, durable=durable)
        return checkpoint

    def save_in_background(self, facts: Facts, stage: Stage, on_commit: OnCommit, *, decides: bool = True) -> None:
        """Stage one checkpoint now; write it, commit it and apply the policy in a thread.

        Without `decides` the policy is left to the caller, who may wait until others have done what they do with the
        checkpoint: until `decide`, all stays that there is.

        `stage` is called with the directory to fill and returns what finishes it there. A save that is in flight is
        waited for first. What fails in that thread is given by `failure`, or raised by the next call, by `wait` and
        by `close`; the caller may save anew from the state of then.
        """
        opened = self.open_save(facts)
        try:
            with as_storage_error(facts.step):
                finish = stage(opened.directory)
        except BaseException:
            self.abandon_save(opened)
            raise
        self.submit_save(opened, finish, on_commit, decides=decides)

    def open_save(self, facts: Facts) -> Opened:
        """First act of a save that several processes write: what is in flight is over, there is room, and an empty
        directory. `submit_save` or `abandon_save` has to follow. Raises as `save_in_background`.
        """
        self._writer.wait()
        run = self.run
        self.make_room(facts.step)
        try:
            return open_draft(run, self._draft(run, facts))
        except BaseException:
            self.headroom.tree.release()
            raise

    def abandon_save(self, opened: Opened) -> None:
        """In place of `submit_save`: nothing of it is left."""
        self.headroom.tree.release()
        self.run.repository.discard(opened.staging)

    def submit_save(self, opened: Opened, finish: Finish, on_commit: OnCommit, *, decides: bool = True) -> None:
        """Last act: what `finish` does, the commit and the policy follow in a thread, as of `save_in_background`."""
        self._in_flight = InFlight(self.run, opened.draft, opened.staging, finish)
        self._writer.submit(
            partial(self._complete, self._in_flight, on_commit, decides), f"the save of step {opened.draft.step}"
        )

    def _complete(self, in_flight: InFlight, on_commit: OnCommit, decides: bool) -> None:
        try:
            checkpoint = in_flight.complete()
        finally:
            self.headroom.tree.release()
        durable_at = time.monotonic()
        self.committed(checkpoint, decides=decides)
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

    def committed(self, checkpoint: Checkpoint, *, decides: bool = True) -> None:
        """Go on from a committed checkpoint: it is the parent of the next one, and the policy decides anew."""
        self.headroom.learn(checkpoint)
        if self._tenure is not None:
            self._tenure.parent = checkpoint.generation
            self._tenure.errands.committed(checkpoint)
        if decides:
            self.decide()

    @property
    def refused(self) -> list[int]:
        """The steps that were not saved for lack of room."""
        return self._refusals.steps

    def make_room(self, step: int) -> None:
        """Return when there is room for the checkpoint of `step`. Raises DiskFull."""
        self._keep.make_room(step, self._dispose_now)

    def _after_failure(self, step: int, error: StorageError) -> None:
        if error.is_full:
            self.headroom.strike(error)
            self.make_room(step)

    def require_room(self, one: int, saves: int) -> None:
        """Before the first step, for a loop that knows how large a checkpoint will be at least, and how many are to
        come. Raises SettingsError where the limits can't hold them.
        """
        limits = self.headroom.limits
        if limits.budget is not None or limits.min_free:
            plan = self._keep.planned(always=True)
            require_room(self.run, limits, plan, metric=self.policy.metric, one=one, saves=saves)

    def refuse(self, step: int, error: StorageError) -> None:
        """Go on without the checkpoint of a step that there is no room for; with `on_disk_full="stop"` raise."""
        if self._tenure is not None:
            self._tenure.errands.refused(step, error.message)
        self._refusals.add(self.run, step, error, self.headroom.limits.on_disk_full)

    def end_well(self) -> None:
        """Raises DiskFull when saves were refused, unless `on_disk_full="continue"`. Call it when all else is done."""
        if self._refusals.steps:
            self._refusals.end(self.run, self.headroom.limits.on_disk_full)

    def _dispose_now(self) -> None:
        if self._tenure is not None:
            self._tenure.dispose_now()

    @property
    def _keep(self) -> Keeping:
        if self._tenure is not None:
            return self._tenure.keeping
        return Keeping(self.run, self.policy, self.headroom, self.judged)

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
        janitor = None if self._tenure is None else self._tenure.janitor
        self.plan = self._keep.decide(janitor.dispose if janitor is not None else None)
        return self.plan

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
        self.cadence.saved()
        if self._tenure is None:
            return draft_of(run, facts, self.policy, None)
        self._tenure.errands.save_begins()
        return draft_of(run, facts, self.policy, self._tenure.parent)
