"""What a policy leaves on disk, and what lies there in every phase of a save."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import SettingsError
from holdfast.operations.planning.schedule import Schedule
from holdfast.operations.simulation.replay import replay
from holdfast.retention import All, Best, Daily, Hourly, Latest, Policy, Within


@dataclass(frozen=True, slots=True)
class Phase:
    """A moment of a save, and how many checkpoints' bytes lie on disk then."""

    name: str
    checkpoints: int


def most_kept(policy: Policy, schedule: Schedule, seconds_per_step: float | None) -> int:
    """The most checkpoints that the policy leaves after a save, whatever the metric does.

    The rules that don't rank are replayed; those that do may keep as many more as they name. Raises SettingsError for a
    rule that counts hours when the time of a step is not known.
    """
    possible = len(schedule.saves) + (schedule.between_saves if policy.metric else 0)
    if any(isinstance(rule, All) for rule in policy.rules):
        return possible
    timed = [rule.spec() for rule in policy.rules if isinstance(rule, (Within, Hourly, Daily))]
    if timed and seconds_per_step is None:
        raise SettingsError(
            f"how many checkpoints {timed[0]!r} keeps depends on the time", hint="Say how long a step takes."
        )
    best = sum(rule.k for rule in policy.rules if isinstance(rule, Best))
    others = tuple(rule for rule in policy.rules if not isinstance(rule, Best)) or (Latest(1),)
    sign = 1.0 if policy.metric and policy.metric.mode == "max" else -1.0
    rising = {step: sign * step for step in schedule.evaluations} if policy.metric else {}
    moments = [
        moment
        for values in ({}, rising)  # nothing is saved between two saves, and a new best whenever there can be one
        for moment in replay(
            Policy(others, policy.metric), schedule, values, seconds_per_step=seconds_per_step or 1.0
        ).moments
    ]
    return min(max(len(moment.kept) for moment in moments) + best, possible)


def phases(kept: int, saves: int) -> tuple[Phase, ...]:
    """Every phase of a save when `kept` checkpoints stay and `saves` are made in all, each with its most checkpoints.

    A save is staged beside all that is kept, removal follows a durable commit, and the removed bytes are freed in the
    background: a slow disk may still hold them when the next save is staged.
    """
    return (
        Phase("between saves", min(kept, saves)),
        Phase("staging: the new one is written beside what is kept", min(kept + 1, saves)),
        Phase("committed: durable, nothing removed yet", min(kept + 1, saves)),
        Phase("removing: set aside for deletion, freed in the background", min(kept + 1, saves)),
        Phase("next save staged while the last removal is still being freed", min(kept + 2, saves)),
    )


def free_bytes(target: Path) -> int:
    """Bytes that are free where `target` is, or will be made. Raises OSError."""
    path = target.absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
