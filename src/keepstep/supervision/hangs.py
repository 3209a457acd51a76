"""Whether a training hangs: no step, no evaluation, no save, no event for longer than it may take."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from keepstep import layout
from keepstep.supervision.boot.keepstep_marks import IDLE, STEPPING
from keepstep.supervision.marks import Beat, Marks
from keepstep.supervision.processes import tell
from keepstep.units import format_duration

BESIDE_FACTOR = 4
"""Before the first step, in an evaluation and in a save so many times longer is no hang."""
_MOST_AWAY = 5.0
"""Seconds between two looks that count: while this process was stopped, so was the training."""
_DUMP_SECONDS = 3.0


class HangWatch:
    """Looks at the beats of one attempt; `limit` in seconds, None for never."""

    def __init__(self, marks: Marks, limit: float | None) -> None:
        self._marks = marks
        self._limit = limit
        self._last: tuple[object, ...] = ()
        self._silent = 0.0
        self._looked = time.monotonic()

    def look(self, runs: Iterable[Path]) -> str:
        """What hangs, and for how long; empty while there is life, or nobody trains."""
        now = time.monotonic()
        away, self._looked = min(now - self._looked, _MOST_AWAY), now
        training = [beat for beat in self._marks.beats() if beat.phase != IDLE]
        if self._limit is None or not training:
            self._silent = 0.0
            return ""
        signs = (*sorted((beat.pid, beat.at) for beat in training), *map(_events_of, runs))
        if signs != self._last:
            self._last, self._silent = signs, 0.0
            return ""
        self._silent += away
        beside = any(beat.phase != STEPPING for beat in training)
        if self._silent < self._limit * (BESIDE_FACTOR if beside else 1):
            return ""
        step = max(beat.step for beat in training)
        where = "before the next step, in an evaluation or in a save" if beside else "in a step"
        return f"no sign of life for {format_duration(self._silent)} at step {step}, {where}"

    def stacks(self) -> str:
        """The stacks of all threads of the processes that train and still answer; empty where none does."""
        beating: dict[int, Beat] = {beat.pid: beat for beat in self._marks.beats() if beat.phase != IDLE}
        asked = [
            one.pid
            for one in self._marks.attached()
            if one.pid in beating and one.dump_signal is not None and tell(one.pid, one.dump_signal)
        ]
        until = time.monotonic() + _DUMP_SECONDS
        while len(self._marks.dumps()) < len(asked) and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.05 * bool(asked))  # the handler writes frame by frame
        return "\n\n".join(f"process {pid}:\n{text}" for pid, text in sorted(self._marks.dumps().items()))


def _events_of(run: Path) -> int:
    """The size of a run's event log and curves: what is saved or logged is life."""
    size = 0
    for name in (layout.EVENTS, layout.METRICS):
        with suppress(OSError):
            size += (run / name).stat().st_size
    return size
