"""How often a training is to be saved by the clock, whatever its steps take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime

from keepstep.model import Checkpoint
from keepstep.run import Attempt, Point
from keepstep.units import format_duration, parse_duration

Clock = Callable[[], float]
"""Seconds that only ever go on."""


class Cadence:
    """Says when a save is due: `every` seconds of training after the last one, whatever asked for that. None: never.

    `clock` may be put in its place by who tests.
    """

    def __init__(self, every: str | None, clock: Clock = time.monotonic) -> None:
        """`every` as people write it: "20m", "2h", "90s". Raises QuantityError."""
        self.every = None if every is None else parse_duration(every, "save_every")
        self.clock = clock
        self._since = clock()

    def start(self, spent: float = 0.0) -> None:
        """The training goes on now, after `spent` seconds of it since the last save in attempts before."""
        self._since = self.clock() - spent

    def saved(self) -> None:
        """A save begins now."""
        self._since = self.clock()

    @property
    def due(self) -> bool:
        """True when it is time."""
        return self.every is not None and self.clock() - self._since >= self.every

    def __str__(self) -> str:
        return "" if self.every is None else f"every {format_duration(self.every)}"


def spent_since(checkpoint: Checkpoint | None, attempts: Sequence[Attempt], points: Iterable[Point]) -> float:
    """Seconds that attempts trained beyond a checkpoint (None: from the start) before they were killed.

    They are told by what was logged: a machine that takes its trainings away more often than `save_every` must not
    keep a training from ever being saved.
    """
    last: dict[int, float] = {}
    for point in points:
        last[point.attempt] = max(last.get(point.attempt, 0.0), point.time)
    begun: dict[int, datetime] = {}
    if checkpoint is None:
        begun = {one.number: one.started for one in attempts if one.from_step is None}
    else:
        makers = [one for one in attempts if one.first_generation and one.first_generation <= checkpoint.generation]
        begun = {one.number: checkpoint.created for one in makers[-1:]}
        begun |= {one.number: one.started for one in attempts if one.from_generation == checkpoint.generation}
    return sum(max(last[number] - since.timestamp(), 0.0) for number, since in begun.items() if number in last)
