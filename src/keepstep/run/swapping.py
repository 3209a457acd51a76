"""A swap of runs: a previous run takes its directory back, and the one that is there becomes a previous one.

What is to move is put down first. `run.json` flips in one step in the middle: before it the directory is the one run's,
after it the other's. Whatever stops a swap on the way, the next start carries it out.
"""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path

import msgspec

from keepstep import layout
from keepstep.errors import KeepstepError
from keepstep.model import parse_name
from keepstep.repository import Repository, is_directory, only_records
from keepstep.run.events import EventLog
from keepstep.run.lock import RunLock
from keepstep.run.runfile import read_run_file
from keepstep.stores import LocalStore, Store

RECORDS = (layout.QUARANTINE, layout.TIMELINES, layout.PINS, layout.METRICS, layout.EVENTS)
"""What of a run goes with it beside its checkpoints; its `run.json` says whose the directory is, and goes last."""


class _Intent(msgspec.Struct, frozen=True):
    run_id: str
    home: str
    left: str
    to: str
    steps: list[int]
    steps_aside: list[int]


def free_home(store: Store, run_id: str) -> str:
    """The key of the directory to set a run aside in."""
    home = f"{layout.PREVIOUS}/{run_id}"
    return f"{home}-{uuid.uuid4().hex[:8]}" if store.exists(home) else home


def begin(store: LocalStore, *, left: str, run_id: str, home: str, steps: list[int], steps_aside: list[int]) -> None:
    """Put down, durably, that the run in `home` takes the place of the run `left`. The latter's lock must be held."""
    intent = _Intent(run_id, home, left, free_home(store, left), steps, steps_aside)
    store.replace(layout.SWAP, msgspec.json.encode(intent) + b"\n")


def finish(store: LocalStore) -> bool:
    """Carry out what was put down; False where nothing was. The lock must be held. Raises KeepstepError, OSError."""
    intent = _read(store)
    if intent is None:
        return False
    if read_run_file(store).run_id == intent.left:
        _make_durable(store, intent.to, before=True)
        _leave(store, intent)
    else:
        _make_durable(store, intent.home, before=False)
    _arrive(store, intent)
    store.delete(layout.SWAP)
    store.sync_directory(layout.META)
    return True


def finish_pending(path: Path) -> bool:
    """Carry out a swap in a directory that a killed process left half-way; False where there is none. Takes the lock.

    Raises RunLocked, KeepstepError, OSError.
    """
    store = LocalStore(path)
    if not store.exists(layout.SWAP):
        return False
    lock = RunLock(store)
    lock.acquire()
    try:
        return finish(store)
    finally:
        lock.release()


def _read(store: LocalStore) -> _Intent | None:
    try:
        data = store.read(layout.SWAP, limit=layout.SMALL_FILE_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return msgspec.json.decode(data, type=_Intent)
    except layout.NOT_JSON as error:
        raise KeepstepError(
            f"{store.local_path(layout.SWAP)} is damaged, and a previous run was being brought back",
            hint="Delete it to stay with what is there; what is still aside can be restored anew.",
        ) from error


def _make_durable(store: LocalStore, aside: str, *, before: bool) -> None:
    """Sync what a killed process may have renamed: where that went to before where it came from."""
    there = [key for key in (f"{aside}/{layout.META}", aside) if is_directory(store, key)]
    here = [layout.META, ""]
    for key in (*there, *here) if before else (*here, *there):
        store.sync_directory(key)


def _leave(store: LocalStore, intent: _Intent) -> None:
    """The run that is there goes, its identity last: what it takes along is a run of its own at every moment."""
    repository = Repository(store, intent.left)
    meta = f"{intent.to}/{layout.META}"
    store.make_directory(meta)
    mine = store.read(layout.RUN, limit=layout.SMALL_FILE_LIMIT)
    store.replace(f"{intent.to}/{layout.RUN}", mine)
    repository.set_aside_everything(intent.to)
    for key in RECORDS:
        if store.exists(key):
            repository.move(key, meta)
    store.replace(layout.RUN, store.read(f"{intent.home}/{layout.RUN}", limit=layout.SMALL_FILE_LIMIT))


def _arrive(store: LocalStore, intent: _Intent) -> None:
    repository = Repository(store, intent.run_id)
    for entry in store.list(intent.home):
        if entry.kind == "directory" and parse_name(entry.path):
            _move(repository, f"{intent.home}/{entry.path}", "", intent)
    for key in RECORDS:
        if store.exists(f"{intent.home}/{key}"):
            _move(repository, f"{intent.home}/{key}", layout.META, intent)
    EventLog(store).append(
        "restored",
        came_from="previous",
        run_id=intent.run_id,
        restored=intent.steps,
        set_aside=intent.steps_aside,
        left=intent.left,
        path=intent.to,
    )
    if only_records(store, intent.home):
        with suppress(OSError):
            repository.clear(intent.home)


def _move(repository: Repository, key: str, home: str, intent: _Intent) -> None:
    """What somebody put in its place since, an event or a pin, goes with the run that left."""
    name = key.rpartition("/")[2]
    there = f"{home}/{name}" if home else name
    if repository.store.exists(there):
        repository.move(there, f"{intent.to}/{layout.META}/late-{uuid.uuid4().hex[:8]}")
    repository.move(key, home)
