"""A snapshot without a copy: the state is written from where it lives, and the gate waits for that."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from holdfast.snapshot.staging import Snapshot, Versions, copy_all

logger = logging.getLogger("holdfast")

PATIENCE_SECONDS = 30.0
"""How often a training that waits at the gate is told so."""


class InPlace:
    """Copies only what a forward pass may change (`at_once`); `wait` is the gate."""

    def __init__(self, snapshot: Snapshot) -> None:
        copy_all(snapshot.at_once)
        self._versions = Versions(snapshot.watched)
        self._done = threading.Event()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Around the write. Raises StateChangedError when something did not wait at the gate."""
        try:
            yield
            self._versions.check()
        finally:
            self._versions = Versions(())
            self._done.set()

    def wait(self) -> None:
        """Return when the live state is written, or its writing has failed; says every 30 s what is waited for."""
        began = time.monotonic()
        while not self._done.wait(PATIENCE_SECONDS):
            logger.warning("the optimizer has waited for the disk for %.0f s", time.monotonic() - began)
