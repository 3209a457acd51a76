"""The events of a run as they come in."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from holdfast import layout
from holdfast.events import Event
from holdfast.run import Run

POLL_SECONDS = 0.5


def follow(run: Run, *, wait: Callable[[float], None] = time.sleep) -> Iterator[Event]:
    """All events so far, then each new one; never ends by itself. A log that was begun anew is read from its start."""
    seen, size = 0, -1
    while True:
        now = _size(run)
        if now < size:
            seen = 0
        if now != size:
            size = now
            for event in list(run.events.read())[seen:]:
                seen += 1
                yield event
        wait(POLL_SECONDS)


def _size(run: Run) -> int:
    try:
        return run.store.local_path(layout.EVENTS).stat().st_size
    except FileNotFoundError:
        return 0
