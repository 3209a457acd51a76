"""The questions that the repository asks of a place where bytes live."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import msgspec

EntryKind = Literal["file", "directory", "link", "other"]
TEMPORARY_SUFFIX = ".tmp"


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One directory entry: path relative to the listed directory, kind (links are not followed), size in bytes."""

    path: str
    kind: EntryKind
    size: int


class Stamp(NamedTuple):
    """What a name stands for at one moment; another stamp where its bytes may be others.

    Two equal ones don't prove equal bytes where the change is younger than the file system's clock tells apart.
    `changed_ns` is the time of the last change of bytes or names, in nanoseconds since the epoch.
    """

    kind: EntryKind
    size: int
    inode: int
    modified_ns: int
    changed_ns: int


class Room(NamedTuple):
    """What is free for this user, and the size of the whole; `free_entries` None where inodes are not counted."""

    free_bytes: int
    free_entries: int | None
    total_bytes: int


def is_leftover_of(entry: str, name: str) -> bool:
    """True when a directory entry is what a killed `replace` of the file `name` left beside it."""
    return entry.startswith(f".{name}.") and entry.endswith(TEMPORARY_SUFFIX)


def walk_by_listing(list_: Callable[[str], list[Entry]], path: str) -> list[Entry]:
    """All entries below a directory, as `Store.walk` gives them, by listing one directory after the other."""
    found: list[Entry] = []
    for entry in list_(path):
        found.append(entry)
        if entry.kind == "directory":
            below = walk_by_listing(list_, f"{path}/{entry.path}" if path else entry.path)
            found.extend(Entry(f"{entry.path}/{item.path}", item.kind, item.size) for item in below)
    return found


class Store(Protocol):
    """Paths are relative POSIX strings below the store's root; `""` is the root itself.

    What `write`, `append(durable=True)`, `replace`, `sync_file` and `sync_directory` return from is durable.
    """

    def local_path(self, path: str) -> Path:
        """The path for writers that need a real file system."""
        ...

    def exists(self, path: str) -> bool:
        """True when something, of any kind, has this name."""
        ...

    def stamp(self, path: str) -> Stamp | None:
        """What has this name, links not followed; None when nothing has it."""
        ...

    def list(self, path: str) -> list[Entry]:
        """Entries of one directory by name; empty when there is no such directory."""
        ...

    def walk(self, path: str) -> list[Entry]:
        """All entries below a directory, by path, directories included, links not followed."""
        ...

    def read(self, path: str, *, limit: int) -> bytes:
        """A regular file's bytes. Raises OSError, also for a link and for more than `limit` bytes."""
        ...

    def chunks(self, path: str, *, size: int, start: int = 0) -> Iterator[memoryview]:
        """A regular file's bytes from `start`, `size` at most at a time; a piece is valid until the next is taken."""
        ...

    def make_directory(self, path: str, *, durable: bool = True) -> None:
        """A directory, durable parents included; no error when it is there. Who may enter it says the umask.

        `durable=False` saves the wait for a directory that need not outlive a power cut under this name.
        """
        ...

    def write(self, path: str, data: bytes) -> None:
        """A new file, durable but for its directory entry. Raises FileExistsError rather than overwrite."""
        ...

    def append(self, path: str, data: bytes, *, durable: bool) -> None:
        """Append in one write; create the file when missing."""
        ...

    def replace(self, path: str, data: bytes, *, workplace: str | None = None) -> None:
        """Create or replace a small file in one step, durably; one that is replaced keeps its mode and group.

        What a kill leaves behind lies in the directory `workplace`, beside the file unless that is given.
        """
        ...

    def sync_file(self, path: str) -> None:
        """Make a file's bytes durable. An error is final for this file."""
        ...

    def sync_directory(self, path: str) -> None:
        """Make a directory's entries durable."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Rename without replacing: raises FileExistsError when the target has a name already."""
        ...

    def exchange(self, one: str, other: str) -> bool:
        """Swap two names in one step; False (and nothing done) where the file system can't."""
        ...

    def link(self, source: str, target: str) -> bool:
        """Give a file a second name; False (and nothing done) where the file system has no hard links.

        The new name is durable once its directory is synced. Raises FileExistsError rather than replace.
        """
        ...

    def delete(self, path: str) -> None:
        """Remove a file or a whole tree; no error when it is gone. Links are removed, not followed."""
        ...

    def modified(self, path: str) -> float:
        """Time of last change, seconds since the epoch. Only for messages, never for order."""
        ...

    def room(self) -> Room:
        """What this user can still write."""
        ...
