"""Which checkpoints of one directory are of one course: the log of an earlier one is the beginning of a later one's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keepstep.stock.trainer_state import TrainerState

SAME_NS = 2 * 10**9
"""Two saves that ended so close together may be two files of one copy."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint as far as its course goes: name, step, when its save ended (ns), and its state where it has one."""

    name: str
    step: int
    ended_ns: int
    state: TrainerState | None


@dataclass(frozen=True, slots=True)
class Courses:
    """All checkpoints in the order in which they count: those of earlier courses, then those of the present one.

    `present` are the names of the latter; `parents` says which checkpoint a course went on from, by name. `sure` is
    False where the last saves of two courses ended too close together to tell which was later: in a copy, mostly.
    """

    order: tuple[str, ...]
    present: frozenset[str]
    parents: Mapping[str, str | None]
    sure: bool = True


def courses(found: Sequence[Saved]) -> Courses:
    """Tell the courses of a directory's checkpoints apart. One without a state is of the present course: nothing
    speaks against it.

    The present course is the one whose last save ended last; of two that ended together, the one with more steps.
    """
    ordered = sorted(found, key=_step)
    parents: dict[str, str | None] = {}
    for place, saved in enumerate(ordered):
        earlier = (other for other in reversed(ordered[:place]) if _goes_on(other, saved))
        parents[saved.name] = next((other.name for other in earlier), None)
    continued = set(parents.values())
    told = [saved for saved in ordered if saved.state is not None]
    ends = sorted((s for s in told if s.name not in continued), key=_end)
    last = ends[-1] if ends else None
    sure = len(ends) < 2 or ends[-1].ended_ns - ends[-2].ended_ns > SAME_NS
    present = {saved.name for saved in ordered if saved.state is None}
    name = last.name if last else None
    while name is not None:
        present.add(name)
        name = parents[name]
    order = sorted(ordered, key=lambda saved: (saved.name in present, saved.step))
    return Courses(tuple(saved.name for saved in order), frozenset(present), parents, sure)


def _goes_on(earlier: Saved, later: Saved) -> bool:
    if earlier.state is None or later.state is None or earlier.step >= later.step:
        return False
    return earlier.state.begins(later.state)


def _step(saved: Saved) -> tuple[int, str]:
    return saved.step, saved.name


def _end(saved: Saved) -> tuple[int, int]:
    return saved.ended_ns, saved.step
