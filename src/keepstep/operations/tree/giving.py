"""What runs of a tree give up that don't train: under their own locks, by their own policies, by renames alone."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from keepstep import layout
from keepstep.errors import KeepstepError
from keepstep.operations.removing.carrying_out import apply_plan
from keepstep.operations.tree.census import Counted
from keepstep.operations.tree.shares import Member
from keepstep.repository import MANIFEST_NAME
from keepstep.retention import Plan, Policy, fit
from keepstep.run import Run

logger = logging.getLogger("keepstep")

_UNDER_WAY = (layout.REWIND, layout.RETURN, layout.SWAP)
"""What a start has to complete before anything else is done with a run."""


def least_of(plan: Plan, policy: Policy, *, may_thin: bool = False) -> int:
    """Bytes of what of a plan is given up under no budget."""
    left = fit(plan, -1, policy.metric, why="", may_thin=may_thin).left
    return sum(checkpoint.size_bytes for checkpoint in left)


def as_member(counted: Counted, plan: Plan, policy: Policy, *, trains: bool, may_thin: bool = False) -> Member:
    """A run as one that shares in a budget; what it takes beside checkpoints is never given up."""
    assert counted.run is not None
    surplus = max(plan.taken_bytes - least_of(plan, policy, may_thin=may_thin), 0)
    newest = max((d.checkpoint.created for d in plan.decisions), default=None)
    shared = counted.run.limits.shared
    return Member(counted.path, counted.takes, counted.takes - surplus, trains, shared, newest)


@dataclass(slots=True)
class Givers:
    """Other runs of a tree while somebody looks for room, which is inside of the tree's lock. Leaving it gives back
    the locks of the runs that don't train.
    """

    counted: Iterable[Counted]
    members: list[Member] = field(default_factory=list[Member])
    _plans: dict[Path, tuple[Run, Plan]] = field(default_factory=dict[Path, "tuple[Run, Plan]"])
    _locks: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Givers:
        """Look at each that shares; the lock of one that does not train is held until this is left."""
        for one in self.counted:
            if one.run is not None and one.run.limits.shared:
                with suppress(KeepstepError, OSError):  # one that can't be read gives nothing
                    self._look(one)
        return self

    def __exit__(self, *error: object) -> None:
        self._locks.close()

    def _look(self, one: Counted) -> None:
        run = Run.open(one.path)
        if run.rebuilt is not None or any(run.store.exists(key) for key in _UNDER_WAY):
            return
        trains = not self._locks.enter_context(run.lock.momentarily())
        plan = run.settled(run.plan)
        self.members.append(as_member(one, plan, run.policy, trains=trains))
        if not trains:
            self._plans[one.path] = (run, plan)

    def give(self, path: Path, bytes_: int, why: str) -> list[Path]:
        """Let a run that does not train give up that many bytes at the least; returns what is to be deleted."""
        run, plan = self._plans[path]
        limit = plan.taken_bytes - bytes_
        # Thinning writes: whoever trains that run next does it.
        tight = fit(plan, limit, run.policy.metric, why=why, may_thin=False)
        going: list[str] = []
        done = apply_plan(run, tight, dispose=going.append)
        if done.removed or done.removed_aside:
            steps = ", ".join(str(c.step) for c in (*done.removed_aside, *done.removed))
            logger.warning("making room (%s): removed step %s of %s", why, steps, run.path)
        return [run.store.local_path(key) for key in going]


def clear_unfinished(counted: Iterable[Counted]) -> list[Path]:
    """Take what died halfway, saves and removals, out of the way as a start of its run would, under that run's lock;
    returns what is to be deleted.
    """
    going: list[Path] = []
    for one in counted:
        if one.run is None or not one.unfinished:
            continue
        run = one.run
        with run.lock.momentarily() as alone, suppress(OSError):
            if alone and not any(run.store.exists(key) for key in _UNDER_WAY):
                going += [run.store.local_path(key) for key in run.repository.sweep()]
    return going


def leaving_of(counted: Iterable[Counted]) -> Iterator[Path]:
    """What is to be deleted anyway: whoever does so may have died, or rest in between."""
    for store in (one.run.store for one in counted if one.run is not None and one.leaving):
        for entry in store.list(layout.TRASH):
            place = store.local_path(f"{layout.TRASH}/{entry.path}")
            if not (place / MANIFEST_NAME).exists():  # with one, a person may want it back
                yield place


def delete(places: Iterable[Path]) -> None:
    """Free the bytes of what lies in the trash; somebody else may be doing the same."""
    for place in places:
        shutil.rmtree(place, ignore_errors=True)
