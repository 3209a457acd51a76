"""What a training logs, on its way into the history of its run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from numbers import Real
from typing import Any

from keepstep.run import Ending, History, ResumePoint, Run


class Logbook:
    """Writes the numbers of every log call in the rank that leads; it changes nothing, and never fails."""

    def __init__(self, *, leads: bool) -> None:
        self._leads = leads
        self._history: History | None = None

    def begin(self, run: Run, point: ResumePoint | None, max_steps: int) -> None:
        """Begin an attempt, where it goes on from is settled."""
        if not self._leads:
            return
        checkpoint = None if point is None else point.checkpoint
        mine = checkpoint is not None and checkpoint.run_id == run.id
        self._history = History(run.store)
        self._history.begin(
            from_step=None if checkpoint is None else checkpoint.step,
            from_generation=checkpoint.generation if checkpoint is not None and mine else None,
            timeline=run.repository.current_timeline(),
            max_steps=max_steps,
        )

    def log(self, step: int, logs: Mapping[str, Any]) -> None:
        """Note what is a number; tensors are left alone, since reading one would make a GPU wait."""
        if self._history is None:
            return
        values = dict(_numbers(logs))
        epoch = values.pop("epoch", None)
        if values:
            self._history.log(step, epoch, values)

    def end(self, how: Ending) -> None:
        """End the attempt; nothing where none was begun, or it has ended already."""
        history, self._history = self._history, None
        if history is not None:
            history.end(how)


def _numbers(logs: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in logs.items():
        if isinstance(value, Real) and not isinstance(value, bool):
            with suppress(OverflowError):  # a whole number beyond any float
                yield str(name).encode(errors="replace").decode(), float(value)
