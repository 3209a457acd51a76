"""Room for the next checkpoint: measured before it is written, made by policy where it is short, or refused."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from keepstep.checkpointer.tree_part import TreePart
from keepstep.errors import DiskFull, StorageError
from keepstep.model import Checkpoint, State
from keepstep.operations.removing.carrying_out import apply_plan
from keepstep.retention import All, Measure, Plan, Policy, entries, fit, size
from keepstep.run import Limits, Run
from keepstep.stores import Room
from keepstep.units import format_size

logger = logging.getLogger("keepstep")

FIRST_WAIT, LONGEST_WAIT = 1.0, 300.0
"""Seconds between two looks for room in a pause; each wait is twice the one before."""
MARGIN = 64 * 2**20
"""Bytes that stay free beside a checkpoint, where the disk and the checkpoint are not small themselves."""
SPARE_ENTRIES = 8
"""Inodes beside a checkpoint's own: staging, the event log, a directory in the trash."""

_WAYS_OUT = (
    "Free space on the disk, move the run to a larger one, unpin or remove checkpoints (keepstep prune), or raise the "
    "budget."
)


class _Shortage(NamedTuple):
    """What is short, in words, how much of it the checkpoints on disk may take so that it suffices, and a way out."""

    why: str
    limit: int
    measure: Measure
    hint: str = ""


class Headroom:
    """Makes room for the checkpoints of one run. `plan` is what the policy says of those on disk now."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.expected = 0
        """Bytes that the next checkpoint will take, 0 while nobody knows."""
        self._entries = 16
        self._struck: int | None = None
        self._may_thin = True
        self._told = False
        self.tree = TreePart()

    def learn(self, checkpoint: Checkpoint) -> None:
        """The next checkpoint will be as large as this one."""
        self.expected, self._entries = checkpoint.size_bytes, entries(checkpoint)

    def strike(self, error: StorageError) -> None:
        """A save failed for lack of room: before the next one some is made, whatever the file system says it has."""
        self._struck = error.errno

    def make(self, run: Run, policy: Policy, step: int, plan: Callable[[], Plan], dispose: Callable[[], None]) -> None:
        """Return when there is room for the checkpoint of `step`; `dispose` frees at once what was removed.

        Raises DiskFull when no more may be given up, or when all of that would not suffice: then nothing is.
        """
        for short in (self._after_strike(run), self._asked_for(run)):
            if short is not None:
                self._give_up(run, policy, short, plan())
        self.tree.keep_promises(run)
        self._struck, wait = None, FIRST_WAIT
        while (short := self._short(run, policy, plan, dispose)) is not None:
            if self._free(run, policy, short, plan()):
                continue
            error = self._refusal(run, step, short, plan())
            if self.limits.on_disk_full != "pause":
                raise error
            text = "%s The training waits, and looks again in %.0f s: free some room, or stop it with Ctrl-C."
            logger.warning(text, error.message, wait)
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)

    def _short(
        self, run: Run, policy: Policy, plan: Callable[[], Plan], dispose: Callable[[], None]
    ) -> _Shortage | None:
        """What is short for one more checkpoint, of its own limits or of its tree's, once what was given up is gone."""
        if self._shortage(run) is not None:
            dispose()
            if (short := self._shortage(run)) is not None:
                return short

        def spare() -> int:
            if self._keeps_all(policy):
                return 0
            taken = plan()
            return taken.taken_bytes - sum(map(size, fit(taken, -1, policy.metric, why="").left))

        lack = self.tree.take(run, self.expected, spare, dispose)
        if lack is None:
            return None
        return _Shortage(lack.why, _taken(run, size) - lack.own if lack.own else -1, size, lack.hint)

    def _asked_for(self, run: Run) -> _Shortage | None:
        """What others of its tree ask for."""
        lack = self.tree.asked(run)
        return None if lack is None else _Shortage(lack.why, max(_taken(run, size) - lack.own, 0), size)

    def _shortage(self, run: Run) -> _Shortage | None:
        """What its own limits are short of for one more checkpoint, None when nothing is."""
        return self._over_budget(run) or self._below_floor(run)

    def _over_budget(self, run: Run) -> _Shortage | None:
        budget = self.limits.budget
        if budget is None or _taken(run, size) + self.expected <= budget:
            return None
        why = f"over the budget of {format_size(budget)} with one more of {format_size(self.expected)}"
        return _Shortage(why, budget - self.expected, size)

    def _below_floor(self, run: Run) -> _Shortage | None:
        room = run.store.room()
        need = self._needed(room)
        if room.free_bytes < need:
            why = f"{format_size(room.free_bytes)} free, {format_size(need)} needed"
            return _Shortage(why, _taken(run, size) - (need - room.free_bytes), size)
        names = self._entries + SPARE_ENTRIES
        if room.free_entries is not None and room.free_entries < names:
            why = f"{room.free_entries} inodes free, {names} needed"
            return _Shortage(why, _taken(run, entries) - (names - room.free_entries), entries)
        return None

    def _after_strike(self, run: Run) -> _Shortage | None:
        """A quota, or others that fill the disk at the same time: the file system's word is not enough."""
        if self._struck is None:
            return None
        room = run.store.room()
        if self._struck == errno.ENOSPC and room.free_bytes >= 2 * self._needed(room):
            return None
        limit = _taken(run, size) - max(self.expected, 1)
        return _Shortage("the disk was full in the middle of a save", limit, size)

    def _needed(self, room: Room) -> int:
        margin = min(MARGIN, room.total_bytes // 20, self.expected)
        return self.expected + self.expected // 20 + margin + self.limits.min_free

    def _free(self, run: Run, policy: Policy, short: _Shortage, plan: Plan) -> bool:
        """Give up what it takes; False when nothing can be given up, or not enough."""
        least = sum(map(short.measure, fit(plan, -1, policy.metric, why=short.why, measure=short.measure).left))
        return least <= short.limit and self._give_up(run, policy, short, plan)

    def _give_up(self, run: Run, policy: Policy, short: _Shortage, plan: Plan) -> bool:
        """Give up what it takes, as far as it may go; False when nothing was."""
        if self._keeps_all(policy):
            return False
        tight = fit(plan, short.limit, policy.metric, why=short.why, measure=short.measure, may_thin=self._may_thin)
        if not tight.changes:
            may_thin, self._may_thin = self._may_thin, True
            return not may_thin  # with thinning there may be more to give up
        self._say(policy, short, tight)
        done = apply_plan(run, tight)
        self._may_thin = not done.not_thinned
        return True

    def _keeps_all(self, policy: Policy) -> bool:
        """True where the training is to stop rather than to give up anything."""
        return self.limits.on_disk_full == "stop" and any(isinstance(rule, All) for rule in policy.rules)

    def _say(self, policy: Policy, short: _Shortage, plan: Plan) -> None:
        gives_up_its_own = bool(plan.remove or plan.thin)
        if any(isinstance(rule, All) for rule in policy.rules) and gives_up_its_own and not self._told:
            self._told = True
            logger.warning(
                "NO ROOM TO KEEP EVERYTHING (%s): from here on the oldest go, first those that are neither of the best "
                "nor of the latest. Say what to keep: attach(trainer, keep=\"best:3,latest:2\"); "
                "on_disk_full=\"stop\" stops the training instead.",
                short.why,
            )  # fmt: skip
        before = [c for c in plan.remove_aside if c.state is State.PREVIOUS]
        aside = [c for c in plan.remove_aside if c.state is not State.PREVIOUS]
        done = (
            ("removed of previous runs", before),
            ("removed from aside", aside),
            ("removed", plan.remove),
            ("thinned", plan.thin),
        )
        steps = [(word, [str(c.step) for c in found]) for word, found in done]
        text = "; ".join(f"{word} step {', '.join(found)}" for word, found in steps if found)
        logger.warning("making room (%s): %s", short.why, text)

    def _refusal(self, run: Run, step: int, short: _Shortage, plan: Plan) -> DiskFull:
        kept = [d for d in plan.decisions if d.stays]
        steps = ", ".join(str(d.checkpoint.step) for d in kept) or "none"
        return DiskFull(
            f"checkpoint step {step} can't be saved: {short.why}. {run.path} keeps {format_size(plan.kept_bytes)} "
            f"(steps {steps}), and giving up all that may go would not be enough.",
            hint=f"{short.hint or _WAYS_OUT} What was committed before is untouched.",
            errno=errno.ENOSPC,
        )


def _taken(run: Run, measure: Measure) -> int:
    """What all checkpoints of the run take, those set aside, in quarantine and of previous runs too."""
    return sum(map(measure, (*run.checkpoints, *run.aside, *run.previous)))
