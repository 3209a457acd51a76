"""A session's hold on a run: taken, settled, displaced where it goes on from another run, and given back."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from keepstep.checkpointer.entrance import Fresh, begin_anew, come_back, why_displaced
from keepstep.checkpointer.errands import Errands
from keepstep.checkpointer.headroom import Headroom
from keepstep.checkpointer.janitor import Janitor
from keepstep.checkpointer.journal import Journal
from keepstep.checkpointer.judged import Judged
from keepstep.checkpointer.keeping import Keeping
from keepstep.checkpointer.observers import Observers
from keepstep.checkpointer.own_runs import remember
from keepstep.checkpointer.stopping.stopping import Stopping, no_end
from keepstep.retention import Policy
from keepstep.run import Pulse, ResumePoint, Run

logger = logging.getLogger("keepstep")


@dataclass(frozen=True, slots=True)
class Terms:
    """What a session works by, from its beginning to its end."""

    path: Path
    policy: Policy
    fresh: Fresh
    headroom: Headroom
    judged: Judged
    links: bool
    observers: Observers
    stopping: Stopping


class Tenure:
    """What one session has of the run that it holds; `run` is None once it is over.

    `parent` is the generation that the next commit follows, `journal` outlives the session: how it ended may be said
    afterwards.
    """

    def __init__(self, terms: Terms, run: Run, point: ResumePoint | None) -> None:
        """Work in `run`, which is locked, and go on from `point`. What is about to go aside is left as it is."""
        self._terms = terms
        self.path = terms.path
        self._unsettled = point
        own = point is None or point.checkpoint.run_id == run.id
        self._displaced = "" if own or point is None else why_displaced(run, point, terms.fresh)
        self.parent: int | None = None
        self._take(run, point)
        if point is None:
            remember(run)
        elif own:  # also in another place, as a download of it
            self.parent = point.checkpoint.generation

    def _take(self, run: Run, point: ResumePoint | None) -> None:
        terms = self._terms
        if not self._displaced:
            run.set_policy(terms.policy, terms.headroom.limits)
            run.switch_links(terms.links)
            terms.observers.mirror(run)  # what the mirror keeps is by that policy
        self.run: Run | None = run
        self.run_id = run.id
        self.janitor: Janitor | None = Janitor(run.store)
        self.journal = Journal(run, point)
        self.errands = Errands(run, terms.stopping)
        self.pulse = Pulse(run.store)
        self.keeping = Keeping(run, terms.policy, terms.headroom, terms.judged)

    def settle(self) -> Path | None:
        """Make the resume final, as `Checkpointer.settle` says it."""
        point, self._unsettled = self._unsettled, None
        if point is None or self.run is None:
            return None
        if self._displaced:
            self._displace(self.run, point)
        if self.parent is None:  # it may lie in a previous run of this directory
            self.keeping.hold(point.checkpoint)
            remember(self.run)
            return None
        checkpoint = come_back(self.run, point.checkpoint)
        for newer in self.run.rewind(checkpoint):
            logger.warning("%s belongs to an older course of the run and is set aside", newer.name)
        self.keeping.hold(checkpoint)
        remember(self.run)
        return checkpoint.path

    def _displace(self, old: Run, point: ResumePoint) -> None:
        """Set the run that is here aside for a new one: a course is of one run."""
        terms, why, self._displaced = self._terms, self._displaced, ""
        terms.observers.end(lambda: 0.0)
        self.run = None
        run = begin_anew(old, terms.policy, why, what=f"Going on from {point.path}")
        try:
            terms.observers.begin(run)
            self._take(run, point)
        except BaseException:
            self.run = None
            run.lock.release()
            raise

    def dispose_now(self) -> None:
        """Return when the bytes of what was removed are free."""
        if self.janitor is not None:
            self.janitor.finish()

    def end(self, *, stopped: bool) -> None:
        """Give the run back: what was removed is gone first, and nobody waits for an answer any more."""
        run, self.run = self.run, None
        left = no_end
        try:
            self.errands.end("the training is stopped" if stopped else "the training has ended", done=stopped)
            self.pulse.stop()
            left = self._terms.stopping.rest()
            self._terms.stopping.end()
            self.dispose_now()
        finally:  # a second Ctrl-C must not leave the lock with nobody
            self.janitor = None
            self._terms.headroom.tree.leave()
            if run is not None:
                run.lock.release()
            self._terms.observers.end(left)
