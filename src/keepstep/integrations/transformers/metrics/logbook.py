"""What a training logs, on its way into the history of its run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from numbers import Real
from typing import Any

from keepstep.checkpointer import Checkpointer
from keepstep.run import Ending


class Logbook:
    """Hands on the numbers of every log call in the rank that leads; it changes nothing, and never fails."""

    def __init__(self, checkpointer: Checkpointer, *, leads: bool) -> None:
        self._checkpointer = checkpointer
        self._leads = leads

    def begin(self, max_steps: int, causes: Callable[[], Sequence[str]]) -> None:
        """Begin an attempt, where it goes on from is settled; `causes` are asked for what makes another course."""
        if self._leads:
            self._checkpointer.begin_log(max_steps, causes)

    def log(self, step: int, logs: Mapping[str, Any]) -> None:
        """Note what is a number; tensors are left alone, since reading one would make a GPU wait."""
        values = dict(_numbers(logs))
        epoch = values.pop("epoch", None)
        if values and self._leads:
            self._checkpointer.log(step, values, epoch=epoch)

    def end(self, how: Ending) -> None:
        """End the attempt; nothing where none was begun, or it has ended already."""
        if self._leads:
            self._checkpointer.end_log(how)


def _numbers(logs: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in logs.items():
        if isinstance(value, Real) and not isinstance(value, bool):
            with suppress(OverflowError):  # a whole number beyond any float
                yield str(name).encode(errors="replace").decode(), float(value)
