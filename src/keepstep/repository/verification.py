"""Whether a checkpoint's bytes are exactly what its manifest says, and what else lies in its directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from keepstep import layout
from keepstep.errors import AccessDenied
from keepstep.model import CHUNK_BYTES, Checkpoint, Damage, FileEntry, Kind
from keepstep.repository.code import code_files
from keepstep.repository.loadable import Loaders, Need, lack_of, need_of, need_of_path, parents_of
from keepstep.repository.manifest import ALGORITHM, MANIFEST_NAME
from keepstep.stores import Entry, LocalStore, Store, denied, is_leftover_of

PIECE_BYTES = 4 * 2**20
"""Bytes of a file that are read at once where one thread reads it."""
TOLERATED = (".DS_Store", "._*", "Thumbs.db", "desktop.ini", ".nfs*", ".fuse_hidden*")
"""Files that operating systems drop into any directory, and take away; nothing loads them, and nobody asks for them."""

MOST_NAMED = 100
"""Added files that an event names."""

OnBytes = Callable[[int], None]
CheckFile = Callable[[Store, str, FileEntry, OnBytes | None], str]
"""Reads a file, given by the store and its path there, and says what is wrong with its bytes; nothing when they hold.
It may raise OSError."""


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong with one file: path relative to the checkpoint, what is wrong, and what can't be done for it."""

    path: str
    what: str
    need: Need = Need.EVERYTHING

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


class Findings(msgspec.Struct, frozen=True):
    """What a check of files found: damage, what lies there beside them, and which of them are gone without damage."""

    problems: tuple[Problem, ...] = ()
    added: tuple[Entry, ...] = ()
    missing: tuple[FileEntry, ...] = ()


class Verification(msgspec.Struct, frozen=True):
    """What a check of one checkpoint found; no problems means that what loaders read is what was written.

    `added` lies in the directory and is in no manifest: no loader reads it, and it is no damage. `missing` are files
    that are gone: what is left is whole for another use, or nothing needs them.
    """

    checkpoint: Checkpoint
    problems: tuple[Problem, ...]
    added: tuple[Entry, ...] = ()
    missing: tuple[FileEntry, ...] = ()

    @classmethod
    def of(cls, checkpoint: Checkpoint, found: Findings) -> Verification:
        """The outcome of a check of all files of a checkpoint."""
        return cls(checkpoint, found.problems, found.added, found.missing)

    @property
    def ok(self) -> bool:
        """True where nothing is damaged; files may be missing all the same."""
        return not self.problems

    @property
    def read_bytes(self) -> int:
        """Bytes of the files that are there."""
        return self.checkpoint.size_bytes - sum(file.size for file in self.missing)

    @property
    def lost(self) -> tuple[str, ...]:
        """Paths of missing files that a resume needs."""
        return tuple(file.path for file in self.missing if lack_of(file) is Need.RESUME)

    @property
    def resumable(self) -> bool:
        """True where everything that a resume reads is there, and as it was written."""
        return self.checkpoint.kind is Kind.FULL and not self.lost and self.sound

    @property
    def sound(self) -> bool:
        """True where nothing that a loader reads is damaged; files may be missing, and those of others changed."""
        return self._spares(Need.RESUME, Need.EVERYTHING)

    @property
    def holds_weights(self) -> bool:
        """True where everything that is read beside a resume is there, and as it was written."""
        return self._spares(Need.EVERYTHING) and (self.checkpoint.weights_apart or not self._spoils_directories())

    @property
    def damage(self) -> Damage:
        """What of it is damaged, by what loaders read."""
        if self.sound:
            return Damage.NONE
        return Damage.RESUME if self.holds_weights else Damage.WEIGHTS

    def _spoils_directories(self) -> bool:
        """True where damage lies in a directory that only a resume reads."""
        return any("/" in problem.path and problem.need is Need.RESUME for problem in self.problems)

    def _spares(self, *needs: Need) -> bool:
        return not any(problem.need in needs for problem in self.problems)

    def summary(self) -> str:
        """One line that names the checkpoint and the files."""
        name = f"{self.checkpoint.name} (generation {self.checkpoint.generation})"
        if self.problems:
            return f"{name}: " + "; ".join(map(str, self.problems))
        return f"{name} holds weights only: {missing_files(self.lost)}" if self.lost else f"{name} is good"

    def to_json(self) -> dict[str, Any]:
        """Plain values for the event log."""
        return {
            "step": self.checkpoint.step,
            "generation": self.checkpoint.generation,
            "ok": self.ok,
            "problems": [str(problem) for problem in self.problems],
            "resumable": self.resumable,
            "damage": self.damage.value,
            "lost": list(self.lost),
            "added": [entry.path for entry in self.added[:MOST_NAMED]],
        }

    def way_out(self, moved_to: Path | None = None) -> str:
        """What a person can do who changed it on purpose: a sentence. `moved_to` is where it was put since."""
        if not any(file.digest for file in self.checkpoint.files):
            return "It was torn before anybody managed it: nothing can put it right."
        run, name = _named(self.checkpoint)
        return f"If a person changed it on purpose: keepstep reseal {run} {moved_to or name}"


def _named(checkpoint: Checkpoint) -> tuple[str, str]:
    """The run's directory, and what a checkpoint is called there: by its step, or, aside, by its generation."""
    path = checkpoint.path
    if path is None:
        return "RUN", str(checkpoint.step)
    for room in path.parents:
        if room.parent.name == layout.META and f"{layout.META}/{room.name}" in (layout.TIMELINES, layout.QUARANTINE):
            return str(room.parent.parent), f"gen:{checkpoint.generation}"
    return str(path.parent), str(checkpoint.step)


Check = Callable[[Checkpoint], Verification]
"""A full check of one checkpoint."""


def missing_files(paths: Iterable[str]) -> str:
    """`optimizer.pt and scheduler.pt are missing, which a resume needs`."""
    *first, last = paths
    names = f"{', '.join(first)} and {last} are" if first else f"{last} is"
    return f"{names} missing, which a resume needs"


def file_digest(store: Store, path: str, on_bytes: OnBytes | None = None) -> str:
    """`xxh3-128:<hex>` of a file's bytes, read in pieces of 4 MiB."""
    state = xxhash.xxh3_128()
    for chunk in store.chunks(path, size=PIECE_BYTES):
        state.update(chunk)
        if on_bytes is not None:
            on_bytes(len(chunk))
    return f"{ALGORITHM}:{state.hexdigest()}"


def sealed(store: Store, path: str, name: str, size: int, on_bytes: OnBytes | None = None) -> FileEntry:
    """The entry `name` of a file of `size` bytes, with the digests of all of it and of its chunks, from one reading."""
    if size <= CHUNK_BYTES:
        return FileEntry(name, size, file_digest(store, path, on_bytes))
    from keepstep.formats.digests import Digester

    digester = Digester()
    for piece in store.chunks(path, size=PIECE_BYTES):
        digester.update(piece)
        if on_bytes is not None:
            on_bytes(len(piece))
    return FileEntry.of(name, size, *digester.finish())


def check_file(store: Store, path: str, file: FileEntry, on_bytes: OnBytes | None = None) -> str:
    """What is wrong with a file's bytes, empty when they hold. Raises OSError when it can't be read.

    A large file on a local disk whose chunk digests are known is read by a few threads, around the page cache where it
    is not in it; memory is bounded by 8 MiB a thread. Any other is read from front to back.
    """
    if not file.chunks or not isinstance(store, LocalStore):
        digest = file_digest(store, path, on_bytes)
        return "" if digest == file.digest else "has other bytes than were written (digest differs)"
    from keepstep.formats.chunks import ChunkCorrupt, ChunkedFile

    try:
        with ChunkedFile(store.local_path(path), file.chunk_digests, size=file.size) as chunked:
            chunked.read((), on_bytes=on_bytes)
    except ChunkCorrupt as error:
        return error.what
    return ""


def verify_files(
    store: Store,
    directory: str,
    files: Iterable[FileEntry],
    on_bytes: OnBytes | None = None,
    check: CheckFile = check_file,
    *,
    weights_alone: bool = False,
) -> Findings:
    """What is found of the listed files below `directory`, and what else lies there.

    Damage is a file that has another size or other bytes, one that is missing and without which nothing can be read,
    and one that is not listed and that a loader would read. `check` reads the bytes of each file that is there with its
    size. With `weights_alone` what only a resume, or nobody, reads is not looked at.
    """
    expected = {file.path: file for file in files}
    try:
        found = {entry.path: entry for entry in store.walk(directory)}
    except PermissionError as error:
        raise denied(
            store.local_path(directory), error, write=False
        ) from error  # who may not read it can't call it damaged
    except OSError as error:
        return Findings((Problem(".", f"can't be listed: {error.strerror or error}"),))
    survey = _Survey(store, directory, expected, found)
    looked_at = [f for _, f in sorted(expected.items()) if not weights_alone or need_of(f) is Need.EVERYTHING]
    # Of a directory that has gone as a whole, everything is missed.
    spared = {f.path: f for f in looked_at if survey.is_gone(f) and lack_of(f) is not Need.EVERYTHING} if found else {}

    def read(file: FileEntry) -> str:
        path = f"{directory}/{file.path}"
        try:
            return check(store, path, file, on_bytes)
        except PermissionError as error:
            raise denied(store.local_path(path), error, write=False) from error

    problems = [
        Problem(file.path, what, need_of(file))
        for file in looked_at
        if file.path not in spared and (what := _what_is_wrong(file, found.get(file.path), read))
    ]
    extras = [p for p in survey.planted() if not weights_alone or p.need is Need.EVERYTHING]
    return Findings((*problems, *extras), tuple(survey.added()), tuple(spared.values()))


def _what_is_wrong(file: FileEntry, entry: Entry | None, read: Callable[[FileEntry], str]) -> str:
    if entry is None:
        return "is missing"
    if entry.kind != "file":
        return f"is a {entry.kind}, not a regular file"
    if entry.size != file.size:
        return f"has {entry.size:,} bytes instead of {file.size:,}"
    try:
        return read(file)
    except AccessDenied:
        raise
    except OSError as error:
        return f"can't be read: {error.strerror or error}"


def added_to(store: Store, directory: str, files: Iterable[FileEntry]) -> list[Entry]:
    """What lies below `directory`, is not among these files, and no loader reads. Raises OSError."""
    found = {entry.path: entry for entry in store.walk(directory)}
    return list(_Survey(store, directory, {file.path: file for file in files}, found).added())


def is_litter(path: str) -> bool:
    """True for what operating systems, or a seal that was killed, leave in a directory."""
    name = path.rpartition("/")[2]
    return any(fnmatch(name, pattern) for pattern in TOLERATED) or is_leftover_of(path, MANIFEST_NAME)


class _Survey:
    """What lies in a checkpoint's directory, held against what is expected there."""

    def __init__(self, store: Store, directory: str, expected: dict[str, FileEntry], found: dict[str, Entry]) -> None:
        self._store = store
        self._directory = directory
        self._expected = expected
        self._found = found

    @cached_property
    def _loaders(self) -> Loaders:
        files = self._expected.values()
        extra_code = any(path.endswith(".py") and path not in self._expected for path in self._found)
        return Loaders(files, code_files(self._store, self._directory, files) if extra_code else ())

    def is_gone(self, file: FileEntry) -> bool:
        """True when nothing has its name, and nothing but directories stands above it: behind a link all may be."""
        above = (self._found.get(parent) for parent in parents_of(file.path))
        return file.path not in self._found and all(entry is None or entry.kind == "directory" for entry in above)

    def planted(self) -> Iterator[Problem]:
        """What is not listed, and a loader would read, or pass on its way."""
        for path, entry in self._extras():
            if self._loaders.passes_through(path):
                yield Problem(path, f"is not in the manifest (an extra {entry.kind} in the place of a directory)")
            elif why := self._why_read(path, entry):
                what = f"is not in the manifest (an extra {entry.kind}), and {why}"
                yield Problem(path, what, need_of_path(path))

    def added(self) -> Iterator[Entry]:
        """What is not listed, and no loader reads; directories count by what is in them."""
        for path, entry in self._extras():
            if entry.kind != "directory" and not self._loaders.passes_through(path) and not self._why_read(path, entry):
                yield entry

    def _why_read(self, path: str, entry: Entry) -> str:
        why = self._loaders.why(path, directory=entry.kind == "directory")
        # What is in it is named where a loader reads all of it.
        named = entry.kind == "directory" and any(
            other.startswith(f"{path}/") and self._loaders.why(other) for other in self._found
        )
        return "" if named else why

    def _extras(self) -> Iterator[tuple[str, Entry]]:
        for path, entry in sorted(self._found.items()):
            own = path in self._expected or path == MANIFEST_NAME or is_litter(path)
            if not own and not (entry.kind == "directory" and self._loaders.passes_through(path)):
                yield path, entry
