"""How fast a mirror may be written: bytes a second, over all files of a process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

OnBytes = Callable[[int], object]
"""Hears of bytes as they go."""


class Pace:
    """Lets bytes through at a rate; without one at once."""

    def __init__(self, bytes_per_second: float | None = None) -> None:
        self._rate = bytes_per_second
        self._guard = threading.Lock()
        self._free_at = 0.0

    def wait(self, count: int) -> None:
        """Return when `count` more bytes may go."""
        if self._rate is None:
            return
        with self._guard:
            begin = max(self._free_at, time.monotonic())
            self._free_at = begin + count / self._rate
        time.sleep(max(0.0, begin - time.monotonic()))
