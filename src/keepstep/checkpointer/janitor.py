"""The janitor: empties the trash in a thread of low priority, so that removing old checkpoints holds up nobody."""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress

from keepstep.checkpointer.priority import lower_priority
from keepstep.stores import Store

REST = 4
"""Times as long as a file's removal took that the janitor then rests."""


class Janitor:
    """Deletes directories of one store, file by file, with rests in between.

    A process that dies leaves the rest of it to the next start of the run, which clears the trash.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys: deque[str] = deque()
        self._guard = threading.Lock()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None

    def dispose(self, key: str) -> None:
        """Delete the directory `key`, soon."""
        with self._guard:
            self._keys.append(key)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="keepstep-janitor", daemon=False)
                self._thread.start()

    def finish(self) -> None:
        """Return when all is deleted, without rests from now on."""
        self._hurry.set()
        try:
            while (thread := self._thread) is not None:
                thread.join()
        finally:
            self._hurry.clear()

    def _run(self) -> None:
        lower_priority()
        while (key := self._next()) is not None:
            with suppress(OSError):
                self._empty(key)

    def _next(self) -> str | None:
        with self._guard:
            if self._keys:
                return self._keys.popleft()
            self._thread = None
            return None

    def _empty(self, key: str) -> None:
        # Never truncated bit by bit: other names (hard links) and readers that have a file open keep its bytes.
        for entry in self._store.walk(key):
            if entry.kind != "directory":
                began = time.monotonic()
                self._store.delete(f"{key}/{entry.path}")
                self._hurry.wait(REST * (time.monotonic() - began))
        self._store.delete(key)
