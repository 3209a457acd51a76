"""A progress bar over bytes on stderr, and the lines in its place where there is no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from keepstep.units import format_size

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

QUIET = 30.0
"""Seconds between two lines."""


class Progress(Protocol):
    """What a command tells about its work."""

    def describe(self, what: str) -> None:
        """What is being read now."""
        ...

    def advance(self, count: int) -> None:
        """So many more bytes were read."""
        ...


class Lines:
    """Where nothing is redrawn: a line whenever so much time has passed, so that short work says nothing.

    `clock` may be put in its place by who tests.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        say: Callable[[str], None],
        *,
        unit: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._total, self._say, self._unit, self._clock = what, total, say, unit, clock
        self._done, self._now, self._said = 0, "", clock()

    def describe(self, what: str) -> None:
        self._now = what
        self._tell()

    def advance(self, count: int) -> None:
        self._done += count
        self._tell()

    def _tell(self) -> None:
        if self._clock() - self._said < QUIET:
            return
        self._said = self._clock()
        counts = [count for count in (self._done, self._total) if count is not None]
        done = " of ".join(map(str if self._unit else format_size, counts))
        self._say(": ".join(filter(None, (self._what, self._now, f"{done} {self._unit}".rstrip()))))


class _Bar:
    def __init__(self, progress: RichProgress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def describe(self, what: str) -> None:
        self._progress.update(self._task, description=what)

    def advance(self, count: int) -> None:
        self._progress.advance(self._task, count)


@contextmanager
def bar(what: str, total: int | None, unit: str = "") -> Generator[Progress]:
    """A bar with bytes, speed and the time left, or with counts of a `unit`; it vanishes at the end. `total` None: a
    pulse.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        FileSizeColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as RichProgress

    done = (FileSizeColumn(),) if total is None else (DownloadColumn(), TimeRemainingColumn())
    counted = (MofNCompleteColumn(), TextColumn(unit)) if unit else (*done, TransferSpeedColumn())
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), *counted)
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Bar(progress, progress.add_task(what, total=total))
