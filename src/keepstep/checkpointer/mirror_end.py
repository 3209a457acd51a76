"""The end of a training waits for its mirror, where all can see for what, and says what is not there."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

from keepstep.checkpointer.courier import Courier
from keepstep.errors import KeepstepError
from keepstep.operations.seeing.mirrored import Mirrored, mirrored_of
from keepstep.run import Run
from keepstep.units import format_duration, format_size

logger = logging.getLogger("keepstep")

Left = Callable[[], float | None]
"""Seconds that the process has by now, None where nobody has said so."""
QUIET, GLANCE = 2.0, 0.25
"""Seconds that the end of a training may take without a word, and between two looks at how it goes."""
MARGIN = 3.0
"""Seconds before a kill in which what is missing is told, and the process ends by itself."""
MOST_STEPS = 8
Draw = Callable[[Mirrored], object]


def await_mirror(courier: Courier, run: Run, limit: float, left: Left) -> None:
    """Return when the mirror lacks nothing, after `limit` seconds, or `MARGIN` before there are none `left`; what is
    missing by then is said. A KeyboardInterrupt ends the wait, and is raised once that was said.
    """
    courier.hurry()
    try:
        _wait(courier, run, time.monotonic() + limit, left)
    finally:
        if courier.behind:
            _say_missing(run)


def _wait(courier: Courier, run: Run, until: float, left: Left) -> None:
    begun = time.monotonic()
    if courier.wait(max(0.0, min(QUIET, until - begun, _allowed(left)))):
        return
    if (rest := min(until - time.monotonic(), _allowed(left))) <= 0:
        return
    seen = _seen(run)
    what = f"{seen.text}" if seen is not None else "it is behind"
    logger.warning("Waiting for the mirror, at most %s (Ctrl-C: not at all): %s", format_duration(rest), what)
    with _bar(seen) as draw:
        while (rest := min(until - time.monotonic(), _allowed(left))) > 0:
            if courier.wait(min(GLANCE, rest)):
                return
            if draw is not None and (now := _seen(run)) is not None:
                draw(now)


def _allowed(left: Left) -> float:
    seconds = left()
    return float("inf") if seconds is None else seconds - MARGIN


def _say_missing(run: Run) -> None:
    seen = _seen(run)
    if seen is None or not seen.waiting:
        return
    steps = [str(one.step) for one in seen.waiting]
    more = f" and {len(steps) - MOST_STEPS} more" if len(steps) > MOST_STEPS else ""
    text = f"step{'' if len(steps) == 1 else 's'} {', '.join(steps[:MOST_STEPS])}{more}"
    why = f": {seen.note.trouble}" if seen.note.trouble else ""
    size = format_size(seen.waiting_bytes)
    logger.warning("The mirror lacks %s (%s)%s. While this disk is there, send it with: %s", text, size, why, seen.way)


def _seen(run: Run) -> Mirrored | None:
    with suppress(OSError, KeepstepError):
        here = Run.open(run.path)
        return mirrored_of(here, here.checkpoints, alive=True, serves=True)
    return None


@contextmanager
def _bar(seen: Mirrored | None) -> Generator[Draw | None]:
    """On a terminal a bar over the bytes; yields what draws it anew, None where there is none."""
    if seen is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=None), DownloadColumn())
    console = Console(stderr=True)
    total = seen.waiting_bytes
    with Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task("mirror", total=total)

        def draw(now: Mirrored) -> None:
            down = f" (no answer: {now.note.trouble})" if now.note.trouble else ""
            sending = f" step {now.note.sending.step}" if now.note.sending else ""
            progress.update(task, description=f"mirror{sending}{down}"[:60], completed=total - now.waiting_bytes)

        yield draw
