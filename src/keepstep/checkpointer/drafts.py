"""A checkpoint before it is written: what it will say of itself, and the directory that is filled for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar

from keepstep.checkpointer.facts import Facts
from keepstep.checkpointer.inflight import as_storage_error
from keepstep.errors import StorageError
from keepstep.model import Checkpoint
from keepstep.repository import Staging
from keepstep.retention import Policy
from keepstep.run import Run, policy_facts

logger = logging.getLogger("keepstep")

T = TypeVar("T")
Writer = Callable[[Path], None]
"""Writes one checkpoint's files into the directory it is given. It may be called a second time."""


def draft_of(run: Run, facts: Facts, policy: Policy, parent: int | None) -> Checkpoint:
    """The run's next checkpoint, without files; `parent` is the generation that the training went on from."""
    return Checkpoint(
        run_id=run.id,
        generation=run.next_generation(),
        timeline=run.repository.current_timeline(),
        parent=parent,
        step=facts.step,
        epoch=facts.epoch,
        kind=facts.kind,
        created=datetime.now(UTC),
        metrics=dict(facts.metrics),
        files=(),
        written_by={**facts.written_by, **policy_facts(policy)},
        fingerprint=facts.fingerprint,
    )


def attempt(run: Run, draft: Checkpoint, write: Writer) -> Checkpoint:
    """Write a draft's files and commit it; returns it as committed. Whatever fails leaves nothing behind."""
    staging = run.repository.stage()
    try:
        fill(staging, draft, write)
        return run.commit(staging, draft)
    except BaseException:
        run.repository.discard(staging)
        raise


def attempt_twice(
    run: Run, draft: Checkpoint, write: Writer, before_again: Callable[[StorageError], None]
) -> Checkpoint:
    """As `attempt`; what a failure of the disk has spoiled is written anew once, after `before_again`."""
    try:
        return attempt(run, draft, write)
    except StorageError as error:
        run.events.append("failed", step=draft.step, error=error.message, retried=True)
        logger.warning("%s Writing it anew.", error.message)
        before_again(error)
        return attempt(run, draft, write)


class Opened(NamedTuple):
    """A save that has begun: what it will say of itself, and the directory that is to be filled."""

    draft: Checkpoint
    staging: Staging

    @property
    def directory(self) -> Path:
        """The checkpoint's own directory, as long as it is being written."""
        return self.staging.path / self.draft.name


def open_draft(run: Run, draft: Checkpoint) -> Opened:
    """An empty directory for a draft. Whatever fails leaves nothing behind. Raises StorageError."""
    opened = Opened(draft, run.repository.stage())
    try:
        fill(opened.staging, draft, lambda directory: None)
    except BaseException:
        run.repository.discard(opened.staging)
        raise
    return opened


def fill(staging: Staging, draft: Checkpoint, write: Callable[[Path], T]) -> T:
    """Make the checkpoint's own directory and let `write` fill it; returns what that returns."""
    directory = staging.path / draft.name
    with as_storage_error(draft.step):
        directory.mkdir()
        return write(directory)
