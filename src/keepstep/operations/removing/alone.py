"""The lock of a run for what removes, or who has it and what can be done beside him."""

from __future__ import annotations

import shlex
from collections.abc import Generator
from contextlib import contextmanager

from keepstep.errors import RunLocked
from keepstep.run import Run


@contextmanager
def alone_in(run: Run, what: str) -> Generator[None]:
    """Hold the run's lock while the block lasts. Raises RunLocked: `what` is to be done, and how to get there."""
    try:
        run.begin_writing(what)
    except RunLocked as error:
        path = shlex.quote(str(run.path))
        raise RunLocked(
            error.message,
            hint="A training applies its own policy after each save, so that need not be done by hand.\n"
            f"Now: keep one (keepstep pin {path} REF), or look (keepstep prune {path} --dry-run).\n"
            'At its next start: attach(trainer, keep="best:3,latest:2", budget="200GB"). Else when it is over.',
        ) from error
    try:
        yield
    finally:
        run.lock.release()
