"""The background writer: one thread, one job in flight, failures handed back to the training thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

from keepstep.checkpointer.priority import lower_priority

logger = logging.getLogger("keepstep")

BackPressure = Literal["wait", "skip", "latest"]
"""What becomes of a save that is due while one is in flight: it waits, is left out, or is made up for later."""
PATIENCE_SECONDS = 30.0
"""How often a training that waits for the disk is told so."""


class BackgroundWriter:
    """Runs one job at a time in a thread of low priority.

    What a job raised is handed over once: by `failure`, or raised by `wait`.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._what = ""

    @property
    def busy(self) -> bool:
        """True while a job runs."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, job: Callable[[], None], what: str) -> None:
        """Start a job; `what` names it in messages. Waits for the one before, and raises what that one failed with."""
        self.wait()
        self._what = what
        # No daemon: the interpreter's end waits for a save that is under way.
        self._thread = threading.Thread(target=self._run, args=(job,), name="keepstep-writer", daemon=False)
        self._thread.start()

    def failure(self) -> BaseException | None:
        """What the last job failed with, once it has ended; None when it did not, or runs still."""
        if self.busy:
            return None
        error, self._error = self._error, None
        return error

    def wait(self) -> None:
        """Return when nothing is in flight. Raises the job's failure."""
        self.join()
        error = self.failure()
        if error is not None:
            raise error

    def join(self) -> None:
        """Return when nothing is in flight, saying every 30 s what is waited for. `failure` tells how it ended."""
        thread, began = self._thread, time.monotonic()
        while thread is not None and thread.is_alive():
            thread.join(PATIENCE_SECONDS)
            if thread.is_alive():
                logger.warning("%s has not come back from the disk for %.0f s", self._what, time.monotonic() - began)
        self._thread = None

    def _run(self, job: Callable[[], None]) -> None:
        lower_priority()
        try:
            job()
        except BaseException as error:
            self._error = error
