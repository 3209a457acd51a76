"""Saves that there was no room for."""

from __future__ import annotations

import errno
import logging

from keepstep.errors import DiskFull, StorageError
from keepstep.run import OnDiskFull, Run

logger = logging.getLogger("keepstep")


class Refusals:
    """The steps of one session that were not saved for lack of room, and what becomes of the training."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def add(self, run: Run, step: int, error: StorageError, on_disk_full: OnDiskFull) -> None:
        """Go on without the checkpoint of a step; with `on_disk_full="stop"` raise."""
        if on_disk_full == "stop":
            raise error
        self.steps += [] if step in self.steps else [step]
        run.events.append("refused", step=step, error=error.message)
        logger.error("STEP %d IS NOT SAVED. %s\n  %s The training goes on.", step, error.message, error.hint)

    def end(self, run: Run, on_disk_full: OnDiskFull) -> None:
        """Raises DiskFull when saves were refused, unless `on_disk_full="continue"`."""
        if not self.steps or on_disk_full == "continue":
            return
        latest = run.latest
        newest = f"the newest checkpoint is step {latest.step}" if latest else "there is no checkpoint"
        count = "1 save was" if len(self.steps) == 1 else f"{len(self.steps)} saves were"
        raise DiskFull(
            f"the training is over, but {count} refused for lack of room (step {', '.join(map(str, self.steps))}); "
            f"{newest} in {run.path}",
            hint="The model in memory is that of the end. on_disk_full='continue' ends without this error.",
            errno=errno.ENOSPC,
        )
