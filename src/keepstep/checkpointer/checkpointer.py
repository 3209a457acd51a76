"""The facade that a training loop holds: begin, save, record metrics, close."""

from __future__ import annotations

import logging
import os
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from keepstep.checkpointer.background import BackgroundWriter, BackPressure
from keepstep.checkpointer.cadence import Cadence
from keepstep.checkpointer.description import describe
from keepstep.checkpointer.entrance import Fresh, enter, reopen, resume_point
from keepstep.checkpointer.headroom import Headroom
from keepstep.checkpointer.inflight import InFlight
from keepstep.checkpointer.judged import Judged
from keepstep.checkpointer.mirroring import WAIT, MirrorTerms
from keepstep.checkpointer.observers import Observers
from keepstep.checkpointer.refusals import Refusals
from keepstep.checkpointer.saving import Saving
from keepstep.checkpointer.stopping.stopping import Stopping
from keepstep.checkpointer.stopping.told import Preemption, Told
from keepstep.checkpointer.tenure import Tenure, Terms
from keepstep.repository import Check
from keepstep.retention import Policy
from keepstep.run import Hooks, Limits, OnDiskFull, Resume, ResumePoint, Run, external_path, meant, open_external

if TYPE_CHECKING:
    from keepstep.operations.export.report import Export

logger = logging.getLogger("keepstep")


class Checkpointer(Saving):
    """Saves, keeps and finds the checkpoints of one run directory for one training process.

    `budget` ("200GB") bounds what the checkpoints take, the one being written included; `min_free` stays free on
    the disk. Where room is short, it is made by policy; where it can't be, `save` raises DiskFull before it writes, or
    waits for room with `on_disk_full="pause"`.
    `hooks` hear what happens to the checkpoints, and `prometheus` (an address, or a file "name.prom") gets their
    metrics while a training runs. `judged.step` is for a loop that judges by itself which step is the best: its
    checkpoint stays, until another takes its place. `links` keeps `best` and `latest` as links in the directory.
    `receipt` says, after a resume, how exact it is and why (None before, and after a fresh start); `plan` is what the
    policy decided last. `save_every` ("20m", "2h", "90s") makes `due` true when so much training has passed since the
    last save. `shared=True` lets other trainings below a directory with a budget (`keepstep budget`) have the room of
    what this run can give up by its policy: at once when it does not train, else at its next save.
    As a context manager it closes itself.
    `heed` at the end of each step says whether to stop: after `max_time` ("7h50m"), once there is a `stop_file`, when
    another process asked for it, or `request_stop` was called; a loop that stops early sets `preempted`.
    `mirror` ("s3://bucket/path", a directory) is the run's second home, kept by `mirror_keep` (by default as the run
    is), in a thread that holds nothing up; `begin` brings the newest from there where this machine lacks it. The end
    waits for it as long as `mirror_wait` says; `mirror_required=True` raises where it can't be asked at the beginning.
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
        hooks: Hooks | None = None,
        prometheus: str | None = None,
        links: bool = False,
        save_every: str | None = None,
        shared: bool = False,
        max_time: str | None = None,
        stop_file: str | os.PathLike[str] | None = None,
        preempt_deadline: str | None = None,
        mirror: str | os.PathLike[str] | None = None,
        mirror_keep: str | None = None,
        mirror_wait: str = WAIT,
        mirror_required: bool = False,
        mirror_bandwidth: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.trial = ""
        """Of a search for hyperparameters the trial that is trained, by the name of its directory."""
        self.links = links
        address = None if mirror is None else os.fspath(mirror)
        terms = MirrorTerms.of(address, mirror_keep, mirror_wait, required=mirror_required, bandwidth=mirror_bandwidth)
        self._observers = Observers(hooks, prometheus, terms)
        self.headroom = Headroom(Limits.of(budget, min_free, on_disk_full, shared=shared))
        self.cadence = Cadence(save_every)
        self._refusals = Refusals()
        self.policy = Policy.from_spec(policy) if isinstance(policy, str) else policy
        self.fresh: Fresh = fresh
        self.back_pressure: BackPressure = back_pressure
        self.judged = Judged()
        self.stopping = Stopping(max_time=max_time, stop_file=stop_file, preempt_deadline=preempt_deadline)
        self.preempted: Preemption | None = None
        self._writer = BackgroundWriter()
        self._in_flight: InFlight | None = None
        self._owed = False

    @property
    def run(self) -> Run:
        """The run on disk that this trained last, wherever it lies by now; before that the one that is there.

        Raises RunNotFound.
        """
        if self._run is not None:
            return self._run
        trained = self._tenure
        return reopen(self.path, trained.run_id if trained is not None and trained.path == self.path else None)

    def configure(self, other: Checkpointer) -> None:
        """Take over the settings of another one, between two sessions: all that it was made with."""
        self.path, self.policy = other.path, other.policy
        self.fresh, self.back_pressure, self.links = other.fresh, other.back_pressure, other.links
        self.headroom, self._observers, self.cadence = other.headroom, other._observers, other.cadence
        self.stopping = other.stopping

    @property
    def due(self) -> bool:
        """True when `save_every` has passed since the last save began: a loop that saves then is saved in time."""
        return self.cadence.due

    # -- being told ------------------------------------------------------------------------------------

    def request_stop(self, why: str = "request_stop()") -> None:
        """Have the training saved and stopped at the end of its step; from any thread."""
        self.stopping.tell(Told(why))

    def request_save(self) -> None:
        """Have the training saved at the end of its step; from any thread."""
        self.stopping.wants_save = True

    def heed(self, step: int, max_steps: int | None = None) -> Told | None:
        """Once a step, in the process that writes: show that it is done, and hear what others ask.

        Returns what has told the training to stop, None while nothing has; a save that is asked for makes `stopping`
        want one.
        """
        if self._tenure is not None and self._run is not None:
            self._tenure.pulse.beat(step, max_steps)
            self._tenure.errands.look(step)
        return self.stopping.look()

    def __enter__(self) -> Self:
        """Nothing is begun yet: that is `begin`'s, which says where to go on from."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Ends the session: finished where the block ended by itself. What failed in the block is what is raised."""
        if error is None:
            self.close(finished=True)
            return
        try:
            self.close()
        except Exception as second:
            error.add_note(f"keepstep: what was being saved failed as well: {second}")

    def __repr__(self) -> str:
        """What is managed, for people: the run, what is kept, by which metric, within which limits."""
        return f"<Checkpointer {self}>"

    def __str__(self) -> str:
        return describe(self.path, self.policy, self.headroom.limits, str(self.cadence), self._run)

    # -- beginning and ending ----------------------------------------------------------------------------

    def begin(self, resume: Resume, *, settle: bool = True, check: Check | None = None) -> ResumePoint | None:
        """Take the run for this process; returns where to resume from, None for a fresh start.

        `None`/`False` is a fresh start: a run that this process has trained, or that has ended, is set aside whole, and
        any other is refused unless `fresh` is "new-run". `True` and `"latest"` mean the newest verified checkpoint, an
        error when there is none; `"auto"` that, or a fresh start in an unused directory; anything else names one. From
        one of another run the run that is here is not gone on with: with it is done as by a fresh start.
        With `settle=False` a caller that may still refuse the resume calls `settle` once it is sure. `check` verifies
        candidates in place of `Run.verify`, for a caller that keeps what it reads.
        Raises RunLocked, RunInUse, CheckpointNotFound, ResumeRefused.
        """
        resume = meant(resume, self.path)
        self.receipt = self.preempted = self._brought = None
        if (left := self.failure(wait=True)) is not None:
            logger.warning("The save that was in flight when the session before was broken off failed: %s", left)
        if self._observers.mirroring is not None:
            self._observers.mirroring.trial = self.trial
            self._brought = self._observers.mirroring.fetch(self.path, resume)
        outside = external_path(resume, self.path)
        run = enter(self.path, self.policy, resume, fresh=self.fresh)
        try:
            self._observers.begin(run)
            point = open_external(outside, check) if outside is not None else resume_point(run, resume, check)
            self.judged = Judged()
            self.stopping.start(self.path)
            terms = Terms(
                self.path, self.policy, self.fresh, self.headroom, self.judged, self.links, self._observers,
                self.stopping,
            )  # fmt: skip
            self._tenure = Tenure(terms, run, point)
            self._owed = False
            self._refusals = Refusals()
            known = run.checkpoints
            for checkpoint in [c for c in known if c.resumable][-1:] or known[-1:]:
                self.headroom.learn(checkpoint)
            if settle and (path := self.settle()) is not None and point is not None:
                point = point.moved_to(path)
            self.cadence.start(self._tenure.journal.spent() if self.cadence.every is not None else 0.0)
        except BaseException:
            if self._tenure is not None:
                self._tenure.run = None
            self._observers.end(lambda: 0.0)
            self.headroom.tree.leave()
            run.lock.release()
            raise
        return point

    def settle(self) -> Path | None:
        """Make the resume final: what is newer than the resume point belongs to an older course, and is set aside, and
        a resume point that lay aside itself comes back; so is all that lies here set aside where the point is another
        run's. Returns where the run's own resume point is now, None where it is another's, or there is none.
        """
        return None if self._tenure is None else self._tenure.settle()

    def close(self, *, finished: bool = False) -> None:
        """End the session: wait for what is in flight, apply the policy once more, now without regard to what was
        resumed from, and unlock. Raises what a save in the background failed with.

        `finished` says that the run has come to its end: a fresh start, in whichever process, then sets it aside.
        """
        run, tenure = self._run, self._tenure
        if run is None or tenure is None:
            return
        try:
            self.end_log("finished" if finished else None)
            self._writer.wait()
            tenure.keeping.let_go()
            if self.preempted is not None:
                run.events.append("preempted", **self.preempted.to_json())
            if finished:
                run.events.append("finished")
        finally:
            self._in_flight = None
            tenure.end(stopped=self.preempted is not None)

    def export(self, directory: str | os.PathLike[str], **options: Any) -> Export:
        """Write a clean, checked model directory from a committed checkpoint, the best one unless `reference` names
        another; `options` and errors are those of `keepstep.export`.
        """
        # By name: the exporter needs torch, and stands above the room that offers it.
        exporter = import_module("keepstep.integrations.transformers.exporting.exporter")
        return exporter.export(self.run, directory, **options)
