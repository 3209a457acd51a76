"""Whether a checkpoint's bytes are exactly what its manifest says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatch

import xxhash

from keepstep.model import CHUNK_BYTES, Checkpoint, FileEntry
from keepstep.repository.manifest import ALGORITHM, MANIFEST_NAME
from keepstep.stores import Entry, LocalStore, Store

PIECE_BYTES = 4 * 2**20
"""Bytes of a file that are read at once where one thread reads it."""
TOLERATED = (".DS_Store", ".nfs*")
"""Files that operating systems drop into any directory; nothing loads them."""

OnBytes = Callable[[int], None]
CheckFile = Callable[[Store, str, FileEntry, OnBytes | None], str]
"""Reads a file, given by the store and its path there, and says what is wrong with its bytes; nothing when they hold.
It may raise OSError."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one file: path relative to the checkpoint, and what is wrong."""

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


@dataclass(frozen=True, slots=True)
class Verification:
    """What a full check of one checkpoint found; no problems means that it holds."""

    checkpoint: Checkpoint
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        return not self.problems

    def summary(self) -> str:
        """One line that names the checkpoint and the files."""
        name = f"{self.checkpoint.name} (generation {self.checkpoint.generation})"
        return f"{name} is good" if self.ok else f"{name}: " + "; ".join(map(str, self.problems))


Check = Callable[[Checkpoint], Verification]
"""A full check of one checkpoint."""


def file_digest(store: Store, path: str, on_bytes: OnBytes | None = None) -> str:
    """`xxh3-128:<hex>` of a file's bytes, read in pieces of 4 MiB."""
    state = xxhash.xxh3_128()
    for chunk in store.chunks(path, size=PIECE_BYTES):
        state.update(chunk)
        if on_bytes is not None:
            on_bytes(len(chunk))
    return f"{ALGORITHM}:{state.hexdigest()}"


def sealed(store: Store, path: str, name: str, size: int) -> FileEntry:
    """The entry `name` of a file of `size` bytes, with the digests of all of it and of its chunks, from one reading."""
    if size <= CHUNK_BYTES:
        return FileEntry(name, size, file_digest(store, path))
    from keepstep.formats.digests import Digester

    digester = Digester()
    for piece in store.chunks(path, size=PIECE_BYTES):
        digester.update(piece)
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
) -> tuple[Problem, ...]:
    """Problems of exactly the listed files below `directory`: missing, other size, other bytes, links, extras.

    `check` reads the bytes of each file that is there with its size.
    """
    expected = {file.path: file for file in files}
    try:
        found = {entry.path: entry for entry in store.walk(directory)}
    except OSError as error:
        return (Problem(".", f"can't be listed: {error.strerror or error}"),)

    def read(file: FileEntry) -> str:
        return check(store, f"{directory}/{file.path}", file, on_bytes)

    problems = [
        Problem(path, what)
        for path, file in sorted(expected.items())
        if (what := _what_is_wrong(file, found.get(path), read))
    ]
    return (*problems, *_extras(found, expected))


def _what_is_wrong(file: FileEntry, entry: Entry | None, read: Callable[[FileEntry], str]) -> str:
    if entry is None:
        return "is missing"
    if entry.kind != "file":
        return f"is a {entry.kind}, not a regular file"
    if entry.size != file.size:
        return f"has {entry.size:,} bytes instead of {file.size:,}"
    try:
        return read(file)
    except OSError as error:
        return f"can't be read: {error.strerror or error}"


def _extras(found: dict[str, Entry], expected: dict[str, FileEntry]) -> list[Problem]:
    directories = {parent for path in expected for parent in parents_of(path)}
    problems: list[Problem] = []
    for path, entry in sorted(found.items()):
        known = path in expected or path == MANIFEST_NAME or (entry.kind == "directory" and path in directories)
        base = path.rsplit("/", 1)[-1]
        if not known and not any(fnmatch(base, pattern) for pattern in TOLERATED):
            problems.append(Problem(path, f"is not in the manifest (an extra {entry.kind})"))
    return problems


def parents_of(path: str) -> list[str]:
    """The directories above a relative path, outermost first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]
