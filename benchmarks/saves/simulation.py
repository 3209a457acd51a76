"""A save on paper: what the fast engine costs at given sizes and bandwidths, step by step.

The state is copied while the next step runs, and is held at the optimizer until the copy is whole; the writer writes it
after that; a save that falls due while one is under way waits for it. No process is started here.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean


@dataclass(frozen=True, slots=True)
class Rates:
    """What a machine can do. Bandwidths in GB/s, times in seconds.

    `copy`: live state to host memory (memcpy, or PCIe from a GPU); `write`: to the disk, synced. `fixed` and
    `per_tensor`: the save call; `commit`: from the last written byte to a durable name; `contention`: the share of the
    time of copying and writing that the training loses although it is not held.
    """

    copy: float
    write: float
    fixed: float = 0.0
    per_tensor: float = 0.0
    commit: float = 0.0
    contention: float = 0.0


@dataclass(frozen=True, slots=True)
class Course:
    """A training: seconds of an undisturbed step, the share of it before the optimizer, steps from save to save."""

    step: float
    before_optimizer: float = 0.85
    every: int = 4
    saves: int = 6


@dataclass(frozen=True, slots=True)
class Outcome:
    """Per save: seconds and bytes. `blocked` has the wait at the optimizer in it, as in the measurements."""

    blocked: float
    inflation: float
    durable: float
    arena: int


def simulate(state: int, tensors: int, rates: Rates, course: Course) -> Outcome:
    """`state` bytes in `tensors` tensors, saved every so many steps."""
    copying, writing = state / rates.copy / 1e9, state / rates.write / 1e9
    now = free = 0.0
    blocked: list[float] = []
    durable: list[float] = []
    for _ in range(course.saves):
        due = now
        began = max(now, free)
        now = began + rates.fixed + rates.per_tensor * tensors
        copied = now + copying
        held = max(0.0, copied - (now + course.step * course.before_optimizer))
        free = copied + writing + rates.commit
        blocked.append(now - due + held)
        durable.append(free - due)
        now += held + rates.contention * (copying + writing) + course.every * course.step
    lost = rates.contention * (copying + writing)
    return Outcome(mean(blocked), mean(blocked) + lost, mean(durable), state)
