"""A progress bar over bytes on stderr, and its stand-in where there is no terminal."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress(Protocol):
    """What a command tells about its work."""

    def describe(self, what: str) -> None:
        """What is being read now."""
        ...

    def advance(self, count: int) -> None:
        """So many more bytes were read."""
        ...


class NoProgress:
    """Says nothing."""

    def describe(self, what: str) -> None:
        return

    def advance(self, count: int) -> None:
        return


class _Bar:
    def __init__(self, progress: RichProgress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def describe(self, what: str) -> None:
        self._progress.update(self._task, description=what)

    def advance(self, count: int) -> None:
        self._progress.advance(self._task, count)


@contextmanager
def bar(what: str, total: int | None) -> Generator[Progress]:
    """A bar with bytes, speed and the time left; it vanishes at the end. `total` None: a pulse."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        FileSizeColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as RichProgress

    done = (FileSizeColumn(),) if total is None else (DownloadColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), *done, TransferSpeedColumn())
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _Bar(progress, progress.add_task(what, total=total))
