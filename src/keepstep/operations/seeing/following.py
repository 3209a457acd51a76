"""The events of a run as they come in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from keepstep import layout
from keepstep.run import Event, Run, Tail, parse_lines

POLL_SECONDS = 0.5


def follow(run: Run, *, wait: Callable[[float], None] = time.sleep) -> Iterator[Event]:
    """All events so far, then each new one; never ends by itself. A log that was begun anew is read from its start."""
    tail = Tail(run.store, layout.EVENTS)
    while True:
        for lines in tail.read().lines:
            yield from parse_lines(lines)
        wait(POLL_SECONDS)
