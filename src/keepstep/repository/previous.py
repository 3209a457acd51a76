"""Runs that a fresh start set aside whole: the checkpoints of each, and whether anything but its records is left."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from keepstep import layout
from keepstep.model import Checkpoint, State, parse_name
from keepstep.repository.catalog import Catalog
from keepstep.stores import Store

_ASIDE = (layout.TIMELINES, layout.QUARANTINE)
_RECORDS = layout.META.split("/"), layout.READERS.split("/")
"""Directories in which a run that was set aside has nothing but records."""


class PreviousRun(msgspec.Struct, frozen=True):
    """A run below `previous/`: the key of its directory in the store, its id, and its checkpoints by generation.

    Those that had been aside already are among them; all of them are in the state `PREVIOUS`.
    """

    home: str
    run_id: str
    checkpoints: tuple[Checkpoint, ...]

    @property
    def name(self) -> str:
        """What people call it by: its id, with more behind it where an earlier attempt to set it aside was killed."""
        return self.home.rpartition("/")[2]


def previous_runs(store: Store) -> tuple[PreviousRun, ...]:
    """The runs that were set aside in a store and have a checkpoint left, by name.

    What else lies there, stock checkpoints that were in the way or another run's, is nobody's to count or remove.
    """
    if not (_is_directory(store, layout.META) and _is_directory(store, layout.PREVIOUS)):
        return ()
    names = [entry.path for entry in store.list(layout.PREVIOUS) if entry.kind == "directory"]
    return tuple(run for name in names if (run := _read(store, name)) is not None)


def only_records(store: Store, home: str) -> bool:
    """True when the directory of a previous run holds no file but its run file, its logs, its pins and its locks."""
    return all(entry.path.split("/")[:-1] in _RECORDS for entry in store.walk(home) if entry.kind != "directory")


def _read(store: Store, name: str) -> PreviousRun | None:
    home = f"{layout.PREVIOUS}/{name}"
    # A directory that was taken already has something behind the id: an earlier attempt was killed.
    for run_id in (name, name.rpartition("-")[0]):
        catalog = Catalog(store, run_id)
        found = [c for room in _rooms(store, home) for c in catalog.room(room, State.PREVIOUS).checkpoints]
        if found:
            return PreviousRun(home, run_id, tuple(sorted(found, key=lambda checkpoint: checkpoint.generation)))
    return None


def _rooms(store: Store, home: str) -> Iterator[str]:
    """Where checkpoints of a run lie: its directory, and what a rewind or a damage had set aside in it."""
    yield home
    if not _is_directory(store, f"{home}/{layout.META}"):
        return
    for room in (f"{home}/{aside}" for aside in _ASIDE):
        if _is_directory(store, room):
            yield from _below(store, room, depth=2)


def _below(store: Store, room: str, depth: int) -> Iterator[str]:
    yield room
    if depth:
        for entry in store.list(room):
            if entry.kind == "directory" and parse_name(entry.path) is None:
                yield from _below(store, f"{room}/{entry.path}", depth - 1)


def _is_directory(store: Store, key: str) -> bool:
    stamp = store.stamp(key)
    return stamp is not None and stamp.kind == "directory"
