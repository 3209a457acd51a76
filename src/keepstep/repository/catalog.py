"""What lies in a directory of checkpoints, each manifest read once for as long as it stays the same."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from keepstep.errors import CheckpointCorrupt
from keepstep.model import Checkpoint, Kind, State, parse_name
from keepstep.repository import manifest
from keepstep.repository.manifest import MANIFEST_NAME
from keepstep.stores import LocalStore, Stamp, Store, denied

if TYPE_CHECKING:
    from keepstep.repository.index import Index

Known = dict[str, tuple[Stamp, Checkpoint]]
"""Checkpoints by the keys of their directories, each with the stamp that its manifest had."""
FEWEST = 500
"""Entries of a run's directory below which reading all manifests takes no time that anybody would notice."""
SETTLED_NS = 2 * 10**9
"""Age from which a change is told by a file's times: a younger one may share them with the next change."""


class Foreign(msgspec.Struct, frozen=True):
    """A directory that is called like a checkpoint and is none of this run's: never counted, never removed."""

    path: Path
    reason: str


class Listing(msgspec.Struct, frozen=True):
    """Checkpoints by generation, and what only looks like one."""

    checkpoints: tuple[Checkpoint, ...]
    foreign: tuple[Foreign, ...]


class Catalog:
    """The checkpoints of one run in the rooms (directories) of one store.

    Every answer is as fresh as the disk: a decoded manifest is used again only while inode, size and times of its
    file are those that were read, and were no longer moving then. Those of a long run are kept for the next process.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self._run_id = run_id
        self._rooms: dict[str, Known] = {}
        self.highest = 0
        """The highest generation among this run's checkpoints that were read so far."""
        self.timeline = 1
        """The highest timeline among them."""

    def room(self, room: str, state: State) -> Listing:
        """Checkpoints of this run in a directory by generation, and foreign directories by name."""
        checkpoints: list[Checkpoint] = []
        foreign: list[Foreign] = []
        entries = self._store.list(room)
        known, index = self._rooms.get(room), None
        if known is None:
            index = None if room or len(entries) < FEWEST else self._index()
            known = {} if index is None else index.recall(self._store.local_path)
        # In its place at the end, and never changed again: another thread may be reading the one before.
        fresh: Known = {}
        for entry in entries:
            if parse_name(entry.path) is None:
                continue
            key = f"{room}/{entry.path}" if room else entry.path
            if entry.kind == "link":
                foreign.append(Foreign(self._store.local_path(key), "it is a link: what it leads to is not the run's"))
                continue
            try:
                checkpoint = self._read(key, state, known, fresh)
            except (OSError, CheckpointCorrupt) as error:
                foreign.append(Foreign(self._store.local_path(key), _why_foreign(error)))
                continue
            if why := self._why_not_ours(checkpoint, entry.path):
                foreign.append(Foreign(self._store.local_path(key), why))
            else:
                checkpoints.append(checkpoint)
        self._rooms[room] = fresh
        if index is not None and sum(known.get(key) is not found for key, found in fresh.items()) >= FEWEST:
            index.keep(fresh)
        checkpoints.sort(key=lambda checkpoint: checkpoint.generation)
        self.highest = max(self.highest, checkpoints[-1].generation if checkpoints else 0)
        self.timeline = max([self.timeline, *(checkpoint.timeline for checkpoint in checkpoints)])
        return Listing(tuple(checkpoints), tuple(foreign))

    def one(self, name: str) -> Checkpoint | None:
        """The committed checkpoint in the directory of that name, None when this run has none there."""
        found = self._store.stamp(name)
        if parse_name(name) is None or found is None or found.kind == "link":
            return None
        try:
            checkpoint = self._read(name, State.COMMITTED, self._rooms.get("", {}), {})
        except (OSError, CheckpointCorrupt):
            return None
        return None if self._why_not_ours(checkpoint, name) else checkpoint

    def read(self, directory: str, state: State = State.COMMITTED) -> Checkpoint:
        """The checkpoint in a directory, read from the disk.

        Raises OSError without a manifest, ManifestInvalid for a bad one, LayoutTooNew for one of a newer keepstep.
        """
        data = self._store.read(f"{directory}/{MANIFEST_NAME}", limit=manifest.SIZE_LIMIT)
        return manifest.decode(data, path=self._store.local_path(directory), state=state)

    def _read(
        self,
        key: str,
        state: State,
        known: Known,
        fresh: Known,
    ) -> Checkpoint:
        """The checkpoint in a directory, from `known` where that is still right; into `fresh` what may be kept."""
        settled = time.time_ns() - SETTLED_NS
        # Before the bytes: what changes them after this look makes another stamp.
        stamp = self._store.stamp(f"{key}/{MANIFEST_NAME}")
        before = known.get(key)
        if before is not None and before[0] == stamp:
            fresh[key] = before
            return before[1]
        checkpoint = self.read(key, state)
        if stamp is not None and stamp.changed_ns < settled:
            fresh[key] = (stamp, checkpoint)
        return checkpoint

    def _index(self) -> Index | None:
        """Where what is read here is kept; of a local directory alone."""
        if not isinstance(self._store, LocalStore):
            return None
        from keepstep.repository.index import Index

        return Index.of_user(self._store.local_path(""))

    def _why_not_ours(self, checkpoint: Checkpoint, name: str) -> str:
        if checkpoint.run_id != self._run_id:
            return f"it belongs to run {checkpoint.run_id}"
        if checkpoint.name != name:
            return f"it is {checkpoint.name} under another name"
        return ""


def _why_foreign(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "it has no keepstep.json"
    if isinstance(error, PermissionError) and error.filename:
        return denied(error.filename, error).message
    return str(error.message if isinstance(error, CheckpointCorrupt) else error)


def twins_in(checkpoints: tuple[Checkpoint, ...]) -> list[Checkpoint]:
    """Thinned checkpoints whose full ones are still there."""
    full = {checkpoint.generation for checkpoint in checkpoints if not _is_thin(checkpoint)}
    return [checkpoint for checkpoint in checkpoints if _is_thin(checkpoint) and checkpoint.generation in full]


def _is_thin(checkpoint: Checkpoint) -> bool:
    return checkpoint.kind is Kind.WEIGHTS and not checkpoint.lost
