"""Checkpoints in one store: stage, commit, list, verify, set aside, remove."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from holdfast import layout, manifest
from holdfast.errors import CheckpointCorrupt, StorageError
from holdfast.manifest import MANIFEST_NAME
from holdfast.model import Checkpoint, FileEntry, State, parse_name
from holdfast.stores import Entry, Store
from holdfast.verification import OnBytes, Verification, file_digest, verify_files


@dataclass(frozen=True, slots=True)
class Foreign:
    """A directory that is called like a checkpoint and is none of this run's: never counted, never removed."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """Checkpoints by generation, and what only looks like one."""

    checkpoints: tuple[Checkpoint, ...]
    foreign: tuple[Foreign, ...]


@dataclass(frozen=True, slots=True)
class Staging:
    """A private directory in which one checkpoint is being written."""

    key: str
    path: Path
    """Where the writer puts the checkpoint's own directory."""


class Repository:
    """The checkpoints of one run in one store. Writers must hold the run's lock."""

    def __init__(self, store: Store, run_id: str) -> None:
        self.store = store
        self.run_id = run_id

    # -- writing ---------------------------------------------------------------------------------------

    def stage(self) -> Staging:
        """A new, empty, private directory (0700) to write a checkpoint into."""
        key = f"{layout.STAGING}/{uuid.uuid4().hex}"
        self.store.make_directory(key)
        return Staging(key, self.store.local_path(key))

    def discard(self, staging: Staging) -> None:
        """Throw a staging directory away."""
        self.store.delete(staging.key)

    def commit(self, staging: Staging, draft: Checkpoint) -> Checkpoint:
        """Make `<staging>/<draft.name>` the run's checkpoint, durably; returns it with its files and path.

        The manifest is written last; the rename makes the checkpoint visible. A checkpoint of the same name
        is swapped out and removed only after the new one is durable; a foreign directory of that name is set
        aside. Raises StorageError, with the staging directory thrown away and nothing else changed.
        """
        try:
            return self._commit(staging, draft)
        except OSError as error:
            self._discard_quietly(staging)
            where = error.filename or staging.path
            raise StorageError(
                f"checkpoint step {draft.step} could not be committed: {error.strerror or error} ({where})",
                hint="Nothing that was committed before is touched.",
                errno=error.errno,
            ) from error

    def _commit(self, staging: Staging, draft: Checkpoint) -> Checkpoint:
        staged = f"{staging.key}/{draft.name}"
        entries = self.store.walk(staged)
        checkpoint = replace(draft, files=tuple(self._seal(staged, entries, draft.step)))
        self.store.write(f"{staged}/{MANIFEST_NAME}", manifest.encode(checkpoint))
        directories = [entry.path for entry in entries if entry.kind == "directory"]
        for directory in sorted(directories, key=len, reverse=True):
            self.store.sync_directory(f"{staged}/{directory}")
        self.store.sync_directory(staged)
        self._publish(staged, checkpoint.name)
        self.store.sync_directory("")
        self.store.delete(staging.key)
        return replace(checkpoint, path=self.store.local_path(checkpoint.name))

    def _seal(self, staged: str, entries: list[Entry], step: int) -> Iterator[FileEntry]:
        for entry in entries:
            if entry.kind in ("link", "other"):
                raise StorageError(f"checkpoint step {step} holds {entry.path}, which is no regular file")
            if entry.kind == "file":
                path = f"{staged}/{entry.path}"
                self.store.sync_file(path)
                yield FileEntry(entry.path, entry.size, file_digest(self.store, path))

    def _publish(self, staged: str, name: str) -> None:
        try:
            self.store.rename(staged, name)
            return
        except FileExistsError:
            if not self._is_ours(name):
                self._move(name, f"{layout.PREVIOUS}/foreign-{uuid.uuid4().hex[:8]}")
                self.store.rename(staged, name)
                return
        if not self.store.exchange(staged, name):
            self._move(name, layout.REPLACED)
            self.store.rename(staged, name)
            self.store.sync_directory("")
            self.store.delete(f"{layout.REPLACED}/{name}")

    def remove(self, checkpoint: Checkpoint) -> None:
        """Take a checkpoint away: out of sight in one rename, then its manifest, then the rest."""
        trash = f"{layout.TRASH}/{uuid.uuid4().hex}"
        moved = self._move(self._key(checkpoint), trash)
        self.store.delete(f"{moved}/{MANIFEST_NAME}")
        self.store.delete(trash)

    def quarantine(self, checkpoint: Checkpoint) -> Path:
        """Move a checkpoint out of the run, to be kept until a person decides; returns where it lies."""
        home = f"{layout.QUARANTINE}/{uuid.uuid4().hex[:8]}"
        return self.store.local_path(self._move(self._key(checkpoint), home))

    def set_aside(self, checkpoint: Checkpoint, timeline: int) -> Path:
        """Move a checkpoint to an abandoned timeline; returns where it lies."""
        key = self._key(checkpoint)
        home = f"{layout.TIMELINES}/{timeline}"
        if self.store.exists(f"{home}/{checkpoint.name}"):
            home = f"{home}/{uuid.uuid4().hex[:8]}"
        return self.store.local_path(self._move(key, home))

    def set_aside_everything(self, home: str) -> list[str]:
        """Move all directories that are called like checkpoints to `home`; returns their names."""
        names = [e.path for e in self.store.list("") if e.kind == "directory" and parse_name(e.path)]
        for name in names:
            self._move(name, home)
        return names

    def recover(self) -> list[str]:
        """Clear what a killed process left behind; returns what was done. Safe to repeat."""
        done: list[str] = []
        for entry in self.store.list(layout.REPLACED):
            if self.store.exists(entry.path):
                self.store.delete(f"{layout.REPLACED}/{entry.path}")
            else:
                self.store.rename(f"{layout.REPLACED}/{entry.path}", entry.path)
                self.store.sync_directory("")
                done.append(f"put back {entry.path}")
        for room, what in ((layout.STAGING, "an unfinished save"), (layout.TRASH, "an unfinished removal")):
            for entry in self.store.list(room):
                self.store.delete(f"{room}/{entry.path}")
                done.append(f"cleared {what}")
        return done

    # -- reading ---------------------------------------------------------------------------------------

    def listing(self) -> Listing:
        """Committed checkpoints of this run by generation, and foreign directories by name."""
        return self._read_room("", State.COMMITTED)

    def aside(self) -> tuple[Checkpoint, ...]:
        """Checkpoints of abandoned timelines and quarantined ones, by generation."""
        rooms = [(layout.QUARANTINE, State.QUARANTINED), (layout.TIMELINES, State.SET_ASIDE)]
        found = [c for room, state in rooms for c in self._read_tree(room, state, depth=2)]
        return tuple(sorted(found, key=lambda checkpoint: checkpoint.generation))

    def current_timeline(self) -> int:
        """1, plus the number of the last abandoned timeline."""
        numbers = [int(entry.path) for entry in self.store.list(layout.TIMELINES) if entry.path.isdigit()]
        return max(numbers, default=0) + 1

    def read_manifest(self, directory: str, state: State = State.COMMITTED) -> Checkpoint:
        """The checkpoint in a directory. Raises FileNotFoundError without a manifest, ManifestInvalid for a bad one."""
        data = self.store.read(f"{directory}/{MANIFEST_NAME}", limit=manifest.SIZE_LIMIT)
        path = self.store.local_path(directory)
        return manifest.decode(data, origin=str(path / MANIFEST_NAME), path=path, state=state)

    def verify(self, checkpoint: Checkpoint, on_bytes: OnBytes | None = None) -> Verification:
        """A full check of every byte; `on_bytes` is told how many were read."""
        key = self._key(checkpoint)
        return Verification(checkpoint, verify_files(self.store, key, checkpoint.files, on_bytes))

    # -- helpers ---------------------------------------------------------------------------------------

    def _read_room(self, room: str, state: State) -> Listing:
        checkpoints: list[Checkpoint] = []
        foreign: list[Foreign] = []
        for entry in self.store.list(room):
            if (parsed := parse_name(entry.path)) is None:
                continue
            key = f"{room}/{entry.path}" if room else entry.path
            try:
                checkpoint = self.read_manifest(key, state)
            except (OSError, CheckpointCorrupt) as error:
                foreign.append(Foreign(self.store.local_path(key), _why_foreign(error)))
                continue
            if checkpoint.run_id != self.run_id:
                reason = f"it belongs to run {checkpoint.run_id}"
            elif (checkpoint.kind, checkpoint.step) != parsed:
                reason = f"it is {checkpoint.name} under another name"
            else:
                checkpoints.append(checkpoint)
                continue
            foreign.append(Foreign(self.store.local_path(key), reason))
        return Listing(tuple(sorted(checkpoints, key=lambda c: c.generation)), tuple(foreign))

    def _read_tree(self, room: str, state: State, depth: int) -> list[Checkpoint]:
        found = list(self._read_room(room, state).checkpoints)
        if depth:
            for entry in self.store.list(room):
                if entry.kind == "directory" and parse_name(entry.path) is None:
                    found += self._read_tree(f"{room}/{entry.path}", state, depth - 1)
        return found

    def _is_ours(self, name: str) -> bool:
        try:
            return self.read_manifest(name).run_id == self.run_id
        except (OSError, CheckpointCorrupt):
            return False

    def _key(self, checkpoint: Checkpoint) -> str:
        if checkpoint.path is None:
            raise ValueError(f"{checkpoint.name} is not on disk")
        return checkpoint.path.relative_to(self.store.local_path("")).as_posix()

    def _move(self, key: str, home: str) -> str:
        """Durably move a directory into `home`, which is made; returns its new key."""
        name = key.rsplit("/", 1)[-1]
        self.store.make_directory(home)
        self.store.rename(key, f"{home}/{name}")
        self.store.sync_directory(home)
        self.store.sync_directory(key.rpartition("/")[0])
        return f"{home}/{name}"

    def _discard_quietly(self, staging: Staging) -> None:
        try:
            self.discard(staging)
        except OSError:
            return  # recover() clears it at the next start; the first error is the one to report


def _why_foreign(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "it has no holdfast.json"
    return str(error.message if isinstance(error, CheckpointCorrupt) else error)
