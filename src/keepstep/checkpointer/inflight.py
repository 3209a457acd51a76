"""A staged checkpoint on its way to the disk, and the metrics that arrive for it meanwhile."""

from __future__ import annotations

import errno
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from keepstep.errors import StorageError
from keepstep.model import Checkpoint
from keepstep.repository import Finish, Staging
from keepstep.run import Run


class InFlight:
    """One checkpoint between its staging and its commit. `complete` runs in the writer's thread."""

    def __init__(self, run: Run, draft: Checkpoint, staging: Staging, finish: Finish) -> None:
        self._run = run
        self._draft = draft
        self._staging = staging
        self._finish = finish
        self._late: dict[str, float] = {}
        self._open = True
        self._guard = threading.Lock()

    def take_late(self, step: int, metrics: Mapping[str, float]) -> bool:
        """Keep metrics for a checkpoint that is not committed yet; False when it is another's, or too late."""
        with self._guard:
            mine = self._open and step == self._draft.step
            if mine:
                self._late.update(metrics)
            return mine

    def complete(self) -> Checkpoint:
        """Write, commit, join the metrics that came late; returns the checkpoint. Raises StorageError."""
        try:
            with as_storage_error(self._draft.step):
                written = self._finish(self._staging.path / self._draft.name)
            checkpoint = self._run.commit(self._staging, self._draft, written)
        except BaseException:
            self._close()
            self._run.repository.discard(self._staging)
            raise
        late = self._close()
        if late:
            self._run.record_metrics(checkpoint.generation, late)
        return checkpoint

    def _close(self) -> dict[str, float]:
        with self._guard:
            self._open = False
            return self._late


@contextmanager
def as_storage_error(step: int) -> Generator[None]:
    """Raise a StorageError that names the step in place of an OSError."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        free = "Free space or repair the disk; what" if full else "What"
        raise StorageError(
            f"checkpoint step {step} could not be written: {error.strerror or error}.",
            hint=f"{free} was committed before is untouched.",
            errno=error.errno,
        ) from error
