"""A run that begins with a checkpoint of another one: further names of the same bytes, a manifest and records anew."""

from __future__ import annotations

import uuid
from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from keepstep.errors import RunInUse, StorageError
from keepstep.model import Checkpoint, Damage, FileEntry, State
from keepstep.repository import Need, OnBytes, Staging, copy_file, lack_of, sealed
from keepstep.run.opening import holds_run
from keepstep.run.rebuilding import BRANCHED, policy_facts
from keepstep.run.run import Run
from keepstep.run.runfile import Origin, RunFile, write_run_file
from keepstep.stores import LocalStore

BRANCH = "branched"
"""The event with which a branch says where it comes from, and its source where it went."""


def begin_branch(
    source: Run, checkpoint: Checkpoint, target: Path, on_bytes: OnBytes | None = None, **written_by: Any
) -> Run:
    """Make `target` a run that begins with `checkpoint` of `source`, under the policy and the limits of that.

    Files are hard links where the file system has them. The commit makes it a run; a kill before leaves a directory
    that is none, and that another attempt takes. `on_bytes` hears of what is copied, or hashed where nothing was known
    of it. `written_by` is added to what the manifest says. Raises RunInUse, RunLocked, StorageError.
    """
    store = LocalStore(target)
    origin = _origin(source, checkpoint)
    file = RunFile.for_policy(
        source.policy, source.limits, run_id=uuid.uuid4().hex[:16], created=datetime.now(UTC), branched=origin
    )
    new = Run(target, file)
    new.lock.acquire()
    try:
        if holds_run(target):
            raise RunInUse(f"{target} is a run already", hint="A branch begins in a directory of its own.")
        new.repository.recover()
        said = {
            **checkpoint.written_by,
            **written_by,
            **policy_facts(source.policy),
            BRANCHED: msgspec.to_builtins(origin),
        }
        draft = replace(
            checkpoint, run_id=new.id, generation=new.next_generation(), timeline=1, parent=None,
            written_by={**said, BRANCHED: msgspec.to_builtins(origin)},
            state=State.COMMITTED, damage=Damage.NONE, path=None,
        )  # fmt: skip
        staging = new.repository.stage()
        with _discarding(new, staging, checkpoint, source):
            written = _take(source, checkpoint, store, f"{staging.key}/{draft.name}", on_bytes)
        new.events.append("run", run_id=new.id, keep=file.keep, metric=file.metric, mode=file.mode)
        new.events.append(
            BRANCH, step=origin.step, from_run=origin.run_id, from_generation=origin.generation, path=origin.path
        )
        new.commit(staging, draft, written)
        write_run_file(store, file)
        return new
    finally:
        new.lock.release()


def _origin(source: Run, checkpoint: Checkpoint) -> Origin:
    place = str(source.path.absolute())
    if not source.managed:
        return Origin(None, None, checkpoint.step, place)
    return Origin(checkpoint.run_id, checkpoint.generation, checkpoint.step, place)


@contextmanager
def _discarding(new: Run, staging: Staging, checkpoint: Checkpoint, source: Run) -> Generator[None]:
    """Nothing is left of what was staged where that fails."""
    try:
        yield
    except BaseException as error:
        new.repository.discard(staging)
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise StorageError(
                f"step {checkpoint.step} of {source.path} could not be branched off: {error.strerror or error}",
                hint=f"{new.path} is no run, and {source.path} is as it was.",
                errno=error.errno,
            ) from error
        raise


def _take(
    source: Run, checkpoint: Checkpoint, store: LocalStore, target: str, on_bytes: OnBytes | None
) -> dict[str, FileEntry]:
    """The checkpoint's files in the directory `target`, durable and with their digests."""
    home = source.repository.key(checkpoint)
    store.make_directory(target, durable=False)
    for parent in sorted({file.path.rpartition("/")[0] for file in checkpoint.files} - {""}):
        store.make_directory(f"{target}/{parent}", durable=False)
    written: dict[str, FileEntry] = {}
    for file in checkpoint.files:
        there, where = f"{home}/{file.path}", f"{target}/{file.path}"
        if lack_of(file) is Need.NOTHING and not source.store.exists(there):
            continue  # others' that somebody took out since
        path = source.store.local_path(there)
        # A file of the Hub's cache is a link itself.
        copied = path.is_symlink() or not store.link_from(path, where)
        if copied:
            copy_file(source.store, there, store, where, file=file, on_bytes=on_bytes)
        if file.digest:
            written[file.path] = file
        else:
            store.sync_file(where)
            written[file.path] = sealed(store, where, file.path, file.size, None if copied else on_bytes)
    return written
