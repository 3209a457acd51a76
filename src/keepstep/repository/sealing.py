"""Sealing: what others added to, rewrote in or took out of a committed checkpoint goes into a manifest of its own.

Digests are taken first; then files and directories are made durable, and the new manifest replaces the old one in one
step. A crash leaves one of the two; what the old one does not know counts as added.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

import msgspec
from msgspec.structs import replace

from keepstep import layout
from keepstep.model import Checkpoint, FileEntry, Kind, Role, State, role_of
from keepstep.repository import manifest
from keepstep.repository.code import code_files
from keepstep.repository.loadable import Loaders, Need, lack_of
from keepstep.repository.manifest import MANIFEST_NAME
from keepstep.repository.verification import OnBytes, is_litter, sealed
from keepstep.stores import Entry, Stamp, Store

ATTEMPTS = 3
"""Times that a file is read which somebody else goes on writing to."""
TICK_NS = 20 * 10**6
WHOLE_SECONDS_NS = 2 * 10**9
"""Age up to which a file may have changed without another stamp: by the clocks of systems, and of old file systems."""


class Look(msgspec.Struct, frozen=True):
    """The stamps of a checkpoint's files at one moment, by path; `taken_ns` since the epoch."""

    generation: int
    stamps: Mapping[str, Stamp]
    taken_ns: int

    def proves(self, path: str, stamp: Stamp | None) -> bool:
        """True when a file that has this stamp now has the bytes that it had then."""
        before = self.stamps.get(path)
        if before is None or before != stamp:
            return False
        coarse = before.modified_ns % 10**9 == 0
        return self.taken_ns - before.changed_ns > (WHOLE_SECONDS_NS if coarse else TICK_NS)


class Rewritten(msgspec.Struct, frozen=True):
    """A file that was committed with some bytes, and has others now."""

    before: FileEntry
    after: FileEntry

    @property
    def path(self) -> str:
        return self.after.path


class Left(msgspec.Struct, frozen=True):
    """Something that is not taken over: it stays what it was to the manifest, and why."""

    path: str
    why: str


class Changes(msgspec.Struct, frozen=True):
    """What has become of a checkpoint since it was committed, or since a look: `after` is what a seal makes of it.

    `touched` are the files that were read: they may not be durable. `look` is how all of them stood then.
    """

    before: Checkpoint
    after: Checkpoint
    manifest_before: str
    look: Look
    added: tuple[FileEntry, ...] = ()
    rewritten: tuple[Rewritten, ...] = ()
    removed: tuple[FileEntry, ...] = ()
    left: tuple[Left, ...] = ()
    touched: tuple[str, ...] = ()

    @property
    def any(self) -> bool:
        """True when there is something to seal."""
        return bool(self.added or self.rewritten or self.removed)


def look(store: Store, directory: str, generation: int) -> Look:
    """How the files below a checkpoint's directory stand now; none of them is read."""
    taken = time.time_ns()
    stamps = {entry.path: store.stamp(f"{directory}/{entry.path}") for entry in _files(store, directory)}
    return Look(generation, {path: stamp for path, stamp in stamps.items() if stamp is not None}, taken)


def find_changes(
    store: Store,
    directory: str,
    *,
    since: Look | None = None,
    state: State = State.COMMITTED,
    on_bytes: OnBytes | None = None,
) -> Changes:
    """What differs from the manifest in `directory`. With `since` only files of another stamp than then are read, and
    what differed before stays as it was. Raises OSError, ManifestInvalid.
    """
    data = store.read(f"{directory}/{MANIFEST_NAME}", limit=manifest.SIZE_LIMIT)
    current = manifest.decode(data, path=store.local_path(directory), state=state)
    return _Comparison(store, directory, current, since, on_bytes).changes(manifest.digest_in(data))


def adopt(store: Store, directory: str, draft: Checkpoint, on_bytes: OnBytes | None = None) -> Checkpoint:
    """Make what others wrote into a directory a checkpoint: its files are made durable and hashed, its manifest comes
    last. `draft` names them by their sizes. Returns the checkpoint. Raises OSError, StorageError.
    """
    for file in draft.files:
        store.sync_file(f"{directory}/{file.path}")
    entries = [sealed(store, f"{directory}/{file.path}", file.path, file.size, on_bytes) for file in draft.files]
    checkpoint = replace(draft, files=tuple(entries), path=store.local_path(directory))
    _write_manifest(store, directory, checkpoint)
    return checkpoint


def write_seal(store: Store, directory: str, changes: Changes) -> None:
    """Make the changes durable, and the manifest that says so. Raises OSError."""
    for path in changes.touched:
        store.sync_file(f"{directory}/{path}")
    if changes.any:
        _write_manifest(store, directory, changes.after)
    else:
        _sync_directories(store, directory)


def _write_manifest(store: Store, directory: str, checkpoint: Checkpoint) -> None:
    # Before the manifest: a name that it has taken out must not come back after it, one that it has must be there.
    _sync_directories(store, directory)
    data = manifest.readable(checkpoint)
    # Not beside it: what a kill leaves would be one more file in a checkpoint.
    store.make_directory(layout.STAGING, durable=False)
    store.replace(f"{directory}/{MANIFEST_NAME}", data, workplace=layout.STAGING)


def _sync_directories(store: Store, directory: str) -> None:
    below = [entry.path for entry in store.walk(directory) if entry.kind == "directory"]
    for path in sorted(below, key=len, reverse=True):
        store.sync_directory(f"{directory}/{path}")
    store.sync_directory(directory)


class _Comparison:
    """A directory held against its manifest, file by file."""

    def __init__(
        self, store: Store, directory: str, current: Checkpoint, since: Look | None, on_bytes: OnBytes | None
    ) -> None:
        self._store = store
        self._directory = directory
        self._current = current
        self._since = since
        self._on_bytes = on_bytes
        self._expected = {file.path: file for file in current.files}
        self._added: list[FileEntry] = []
        self._rewritten: list[Rewritten] = []
        self._left: list[Left] = []
        self._touched: list[str] = []

    def changes(self, manifest_before: str) -> Changes:
        now = look(self._store, self._directory, self._current.generation)
        entries = list(_files(self._store, self._directory))
        files = [file for entry in entries if (file := self._file(entry, now.stamps.get(entry.path)))]
        files, removed = self._without_removed(files, {entry.path for entry in entries})
        files = self._told_apart(files)
        added = {file.path for file in self._added}
        return Changes(
            self._current,
            self._sealed(files),
            manifest_before,
            now,
            tuple(file for file in files if file.path in added),
            tuple(self._rewritten),
            tuple(removed),
            tuple(self._left),
            tuple(self._touched),
        )

    def _file(self, entry: Entry, stamp: Stamp | None) -> FileEntry | None:
        """What the new manifest says of something in the directory; None for nothing."""
        known, path = self._expected.get(entry.path), entry.path
        if self._since is not None and self._since.proves(path, stamp):
            return known
        if entry.kind != "file":
            self._left.append(Left(path, f"is a {entry.kind}, and is not followed"))
            return known
        found = self._read(path)
        if found is None:
            self._left.append(Left(path, "changes while it is read"))
            return known
        self._touched.append(path)
        if known is None:
            self._added.append(found)
        elif (known.size, known.digest) != (found.size, found.digest):
            found = replace(found, by=known.by)
            self._rewritten.append(Rewritten(known, found))
        else:
            return known
        return found

    def _read(self, path: str) -> FileEntry | None:
        """The entry of a file that stayed the same while it was read, None for one that did not."""
        key = f"{self._directory}/{path}"
        for _ in range(ATTEMPTS):
            stamp = self._store.stamp(key)
            if stamp is None or stamp.kind != "file":
                return None
            try:
                found = sealed(self._store, key, path, stamp.size, self._on_bytes)
            except FileNotFoundError:
                return None
            if self._store.stamp(key) == stamp:
                return found
        return None

    def _without_removed(self, files: list[FileEntry], there: set[str]) -> tuple[list[FileEntry], list[FileEntry]]:
        """The files, and those that were taken out; what had gone before the look, and last weights, stay listed."""
        gone = [file for file in self._current.files if file.path not in there]
        removed = [file for file in gone if self._since is None or file.path in self._since.stamps]
        weights = [file for file in files if not file.by and role_of(file.path) is Role.WEIGHTS]
        if not weights:
            last = [file for file in removed if not file.by and role_of(file.path) is Role.WEIGHTS]
            self._left += [Left(file.path, "is gone, and no other weights are left") for file in last]
            removed = [file for file in removed if file not in last]
        return [*files, *(file for file in gone if file not in removed)], removed

    def _told_apart(self, files: list[FileEntry]) -> list[FileEntry]:
        """The files, with those marked as others' that were added and that no loader reads."""
        added = {file.path for file in self._added}
        if not added:
            return files
        code = code_files(self._store, self._directory, files) if any(p.endswith(".py") for p in added) else ()
        read, more = [file for file in files if file.path not in added], True
        while more:  # a loader that finds one file in a directory reads those beside it
            loaders, known = Loaders(read, code), {file.path for file in read}
            more = [file for file in files if file.path not in known and loaders.why(file.path)]
            read += more
        own = {file.path for file in read}
        return [file if file.path in own else replace(file, by="others") for file in files]

    def _sealed(self, files: list[FileEntry]) -> Checkpoint:
        current, there = self._current, {file.path for file in files}
        before = [f.path for f in current.files if lack_of(f) is Need.RESUME]
        full = current.kind is Kind.FULL or bool(current.lost)
        lost = sorted({*current.lost, *before} - there) if full else []
        whole = replace(current, files=tuple(files), kind=Kind.FULL if full else current.kind, lost=())
        return whole.without(lost)


def _files(store: Store, directory: str) -> Iterator[Entry]:
    """What lies below a checkpoint's directory and is no directory, without its manifest and litter."""
    for entry in store.walk(directory):
        if entry.kind != "directory" and entry.path != MANIFEST_NAME and not is_litter(entry.path):
            yield entry
