"""What a policy leaves on disk, and what lies there in every phase of a save."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keepstep.errors import SettingsError
from keepstep.operations.simulation.replay import replay
from keepstep.operations.simulation.schedule import Schedule
from keepstep.retention import Best, Daily, Every, Hourly, Latest, Pending, Pinned, Policy, Within


@dataclass(frozen=True, slots=True)
class Kept:
    """The most that stays on disk: so many whole checkpoints, and so many of which only the weights are left."""

    whole: int
    thinned: int = 0

    @property
    def count(self) -> int:
        """Checkpoints of either kind."""
        return self.whole + self.thinned

    def bytes(self, whole: int, thinned: int) -> int:
        """Bytes, when one checkpoint takes `whole` bytes, and `thinned` once it is thinned."""
        return self.whole * whole + self.thinned * thinned

    def at_most(self, count: int) -> Kept:
        """No more than so many, the whole ones first."""
        whole = min(self.whole, count)
        return Kept(whole, min(self.thinned, count - whole))


@dataclass(frozen=True, slots=True)
class Phase:
    """A moment of a save, and what lies on disk then."""

    name: str
    on_disk: Kept
    exports: int = 0

    @property
    def checkpoints(self) -> int:
        """How many lie there, whole or thinned."""
        return self.on_disk.count

    def bytes(self, whole: int, thinned: int) -> int:
        """Bytes, when a checkpoint takes `whole` bytes, and what is left of a thinned one, or exported, `thinned`."""
        return self.on_disk.bytes(whole, thinned) + self.exports * thinned


def most_kept(policy: Policy, schedule: Schedule, seconds_per_step: float | None) -> Kept:
    """The most that the policy leaves after a save, whatever the metric does.

    Rules that go by time are replayed, without those that rank; these may keep as many more as they name, thinned
    unless they ask for whole ones. Raises SettingsError for a rule that counts hours when the time of a step is not
    known.
    """
    courses = [schedule.saves]  # nothing is saved between two saves, or a new best whenever there can be one
    if policy.metric:
        courses.append(tuple(sorted({*schedule.saves, *schedule.evaluations})))
    if (kept := most_of(policy, courses)) is not None:
        return kept
    timed = next(rule.spec() for rule in policy.rules if isinstance(rule, _TIMED))
    if seconds_per_step is None:
        raise SettingsError(
            f"how many checkpoints {timed!r} keeps depends on the time", hint="Say how long a step takes."
        )
    others = Policy(tuple(rule for rule in policy.rules if not isinstance(rule, Best)), policy.metric)
    sign = 1.0 if policy.metric and policy.metric.mode == "max" else -1.0
    rising = {step: sign * step for step in schedule.evaluations} if policy.metric else {}
    moments = [
        moment
        for values in ({}, rising)
        for moment in replay(others, schedule, values, seconds_per_step=seconds_per_step).moments
    ]
    return _with_best(max(len(moment.kept) for moment in moments), policy, max(map(len, courses)))


def most_of(policy: Policy, courses: Sequence[Sequence[int]]) -> Kept | None:
    """The most that the policy leaves of any of these courses, each the steps that are saved in ascending order.

    All of them where a rule is none of those that can be counted here. None where one goes by time: steps don't say how
    many it keeps.
    """
    possible = max(map(len, courses))
    if not all(isinstance(rule, (*_COUNTED, *_TIMED)) for rule in policy.rules):
        return Kept(possible)
    if any(isinstance(rule, _TIMED) for rule in policy.rules):
        return None
    latest = max([1, *(rule.n for rule in policy.rules if isinstance(rule, Latest))])  # the newest stays anyhow
    every = [rule.steps for rule in policy.rules if isinstance(rule, Every)]
    whole = max(_most_by_step(steps, latest, every) for steps in courses)
    return _with_best(whole, policy, possible)


_TIMED = (Within, Hourly, Daily, Pending)
_COUNTED = (Best, Latest, Every, Pinned)
"""Rules of which steps alone say how many they keep at most, before a person pins any."""


def _most_by_step(steps: Sequence[int], latest: int, every: list[int]) -> int:
    """The most after any save: the latest, and all milestones before them."""
    milestones = sum(any(step % each == 0 for each in every) for step in steps[:-latest])
    return min(latest, len(steps)) + milestones


def _with_best(others: int, policy: Policy, possible: int) -> Kept:
    """With as many more as the rules name that rank: any of them may be one that no other rule keeps."""
    best = [rule for rule in policy.rules if isinstance(rule, Best)]
    full = sum(rule.k for rule in best if rule.full)
    return Kept(others + full, sum(rule.k for rule in best if not rule.full)).at_most(possible)


def phases(kept: Kept, saves: int) -> tuple[Phase, ...]:
    """Every phase of a save when `kept` stays and `saves` are made in all, each with the most that lies on disk.

    A save is staged beside all that is kept, removing and thinning follow a durable commit, and the bytes are freed in
    the background: a slow disk may still hold them when the next save is staged.
    """

    def beside(more: int) -> Kept:
        return Kept(kept.whole + more, kept.thinned).at_most(saves)

    return (
        Phase("between saves", beside(0)),
        Phase("staging: the new one is written beside what is kept", beside(1)),
        Phase("committed: durable, nothing removed yet", beside(1)),
        Phase("removing: set aside for deletion, freed in the background", beside(1)),
        Phase("next save staged while the last removal is still being freed", beside(2)),
        Phase("export: the weights once more, beside what is kept", beside(0), exports=1),
    )


def free_bytes(target: Path) -> int:
    """Bytes that are free where `target` is, or will be made. Raises OSError."""
    path = target.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
