"""A store in memory that models what a disk guarantees, so that a power cut can be tried at every operation."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from keepstep.stores.base import Entry, Room, Stamp, walk_by_listing

ROOT = Path("/in-memory")
"""The made-up place below which `local_path` answers."""

Before = Callable[[str, str], None]
"""Called with the name of an operation and its path, before anything changes; what it raises stops the operation."""
Luck = Callable[[str], bool]
"""Says of a path whether the disk happened to write it back although nobody asked for it."""


def no_luck(_path: str) -> bool:
    """Only what was synced survives."""
    return False


@dataclass
class _File:
    data: bytes = b""
    durable: bytes | None = None

    def after_crash(self, keep: bool) -> _File:
        """Bytes that were never synced are zeros: the length reached the disk, the data did not."""
        known = b"" if self.durable is None else self.durable
        data = self.data if keep else known[: len(self.data)].ljust(len(self.data), b"\0")
        return _File(data, data)


@dataclass
class _Directory:
    entries: dict[str, _Node] = field(default_factory=dict[str, "_Node"])
    durable: dict[str, _Node] = field(default_factory=dict[str, "_Node"])
    moved_away: set[str] = field(default_factory=set[str])
    modified: float = 0.0


_Node = _File | _Directory


class MemoryStore:
    """A `Store` with two views: what processes see, and what would be there after a power cut.

    A file's bytes become durable by a sync of the file, a name by a sync of its directory, and each name by
    itself: after a rename the tree may be found under both names. It is found under neither only when the
    source's directory was synced before the target's. `crash` gives the store as it is found afterwards; a
    killed process loses nothing: go on with the same store.
    """

    def __init__(self, before: Before | None = None, *, can_exchange: bool = True, can_link: bool = True) -> None:
        self.before = before
        self.can_link = can_link
        self.can_exchange = can_exchange
        self._root = _Directory()
        self._clock = count(1)

    def crash(self, luck: Luck = no_luck) -> MemoryStore:
        """The store after a power cut; `luck` says which unsynced names and bytes survive all the same."""
        after = MemoryStore(can_exchange=self.can_exchange, can_link=self.can_link)
        after._root = _after_crash(self._root, "", luck)
        return after

    def state(self) -> Hashable:
        """All that what comes next depends on: stores of equal states answer alike, for ever."""
        return _state(self._root, {}), repr(self._clock), self.can_exchange, self.can_link

    # -- what a test does beside the protocol ----------------------------------------------------------

    def put(self, path: str, data: bytes) -> None:
        """Write a file as frameworks do: parents made, nothing synced, an old file overwritten in place."""
        self._announce("put", path)
        directory = self._root
        *parents, name = path.split("/")
        for parent in parents:
            below = directory.entries.setdefault(parent, _Directory(modified=next(self._clock)))
            assert isinstance(below, _Directory)
            directory = below
        node = directory.entries.setdefault(name, _File())
        assert isinstance(node, _File)
        node.data = data

    def touch(self, path: str) -> None:
        """Make a directory the last modified one."""
        self._directory(path).modified = next(self._clock)

    # -- the protocol: reading -------------------------------------------------------------------------

    def local_path(self, path: str) -> Path:
        return ROOT / path if path else ROOT

    def exists(self, path: str) -> bool:
        return self._find(path) is not None

    def stamp(self, path: str) -> Stamp | None:
        node = self._find(path)
        if node is None:
            return None
        if isinstance(node, _Directory):
            return Stamp("directory", 0, id(node), 0, 0)
        return Stamp("file", len(node.data), id(node), hash(node.data), 0)

    def list(self, path: str) -> list[Entry]:
        node = self._find(path)
        if not isinstance(node, _Directory):
            return []
        return [_entry(name, node.entries[name]) for name in sorted(node.entries)]

    def walk(self, path: str) -> list[Entry]:
        return walk_by_listing(self.list, path)

    def read(self, path: str, *, limit: int) -> bytes:
        data = self._file(path).data
        if len(data) > limit:
            raise _error(errno.EFBIG, path)
        return data

    def chunks(self, path: str, *, size: int, start: int = 0) -> Iterator[memoryview]:
        view = memoryview(self._file(path).data)[start:]
        for offset in range(0, len(view), size):
            yield view[offset : offset + size]

    def modified(self, path: str) -> float:
        node = self._find(path)
        return node.modified if isinstance(node, _Directory) else 0.0

    def room(self) -> Room:
        return Room(2**60, None, 2**60)

    # -- the protocol: writing -------------------------------------------------------------------------

    def make_directory(self, path: str, *, durable: bool = True) -> None:
        if not path or isinstance(self._find(path), _Directory):
            return
        parent, _, name = path.rpartition("/")
        self.make_directory(parent)
        self._announce("make_directory", path)
        home = self._directory(parent)
        if name in home.entries:
            raise _error(errno.EEXIST, path)
        home.entries[name] = _Directory(modified=next(self._clock))
        if durable:
            self.sync_directory(parent)

    def write(self, path: str, data: bytes) -> None:
        self._announce("write", path)
        home, name = self._place(path)
        if name in home.entries:
            raise _error(errno.EEXIST, path)
        home.entries[name] = _File(data)
        self.sync_file(path)

    def append(self, path: str, data: bytes, *, durable: bool) -> None:
        self._announce("append", path)
        home, name = self._place(path)
        is_new = name not in home.entries
        home.entries.setdefault(name, _File())
        file = self._file(path)
        file.data += data
        if durable:
            self.sync_file(path)
            if is_new:
                self.sync_directory(path.rpartition("/")[0])

    def replace(self, path: str, data: bytes, *, workplace: str | None = None) -> None:
        if workplace is not None:
            self._directory(workplace)
        self._announce("replace", path)
        home, name = self._place(path)
        home.entries[name] = _File(data, data)
        self.sync_directory(path.rpartition("/")[0])

    def sync_file(self, path: str) -> None:
        self._announce("sync_file", path)
        file = self._file(path)
        file.durable = file.data

    def sync_directory(self, path: str) -> None:
        self._announce("sync_directory", path)
        directory = self._directory(path)
        directory.durable = dict(directory.entries)
        directory.moved_away.clear()

    def rename(self, source: str, target: str) -> None:
        self._announce("rename", source)
        home, name = self._place(source)
        new_home, new_name = self._place(target)
        if name not in home.entries:
            raise _error(errno.ENOENT, source)
        if new_name in new_home.entries:
            raise _error(errno.EEXIST, target)
        new_home.entries[new_name] = home.entries.pop(name)
        home.moved_away.add(name)

    def exchange(self, one: str, other: str) -> bool:
        if not self.can_exchange:
            return False
        self._announce("exchange", one)
        home, name = self._place(one)
        other_home, other_name = self._place(other)
        if name not in home.entries or other_name not in other_home.entries:
            raise _error(errno.ENOENT, one)
        mine, theirs = home.entries[name], other_home.entries[other_name]
        home.entries[name], other_home.entries[other_name] = theirs, mine
        return True

    def link(self, source: str, target: str) -> bool:
        if not self.can_link:
            return False
        self._announce("link", target)
        file = self._file(source)
        home, name = self._place(target)
        if name in home.entries:
            raise _error(errno.EEXIST, target)
        home.entries[name] = file
        return True

    def delete(self, path: str) -> None:
        node = self._find(path)
        if node is None:
            return
        if isinstance(node, _Directory):
            for name in sorted(node.entries):
                self.delete(f"{path}/{name}")
        self._announce("delete", path)
        home, name = self._place(path)
        del home.entries[name]

    # -- helpers ---------------------------------------------------------------------------------------

    def _announce(self, operation: str, path: str) -> None:
        if self.before is not None:
            self.before(operation, path)

    def _find(self, path: str) -> _Node | None:
        node: _Node | None = self._root
        for name in path.split("/") if path else ():
            node = node.entries.get(name) if isinstance(node, _Directory) else None
        return node

    def _file(self, path: str) -> _File:
        node = self._find(path)
        if node is None:
            raise _error(errno.ENOENT, path)
        if not isinstance(node, _File):
            raise _error(errno.EISDIR, path)
        return node

    def _directory(self, path: str) -> _Directory:
        node = self._find(path)
        if node is None:
            raise _error(errno.ENOENT, path)
        if not isinstance(node, _Directory):
            raise _error(errno.ENOTDIR, path)
        return node

    def _place(self, path: str) -> tuple[_Directory, str]:
        parent, _, name = path.rpartition("/")
        return self._directory(parent), name


def _after_crash(directory: _Directory, path: str, luck: Luck) -> _Directory:
    found = _Directory(modified=directory.modified)
    for name in directory.entries.keys() | directory.durable.keys():
        below = f"{path}/{name}" if path else name
        keep = luck(below)
        vanished = name in directory.moved_away and name not in directory.entries
        node = (directory.entries if keep and not vanished else directory.durable).get(name)
        if isinstance(node, _Directory):
            found.entries[name] = _after_crash(node, below, luck)
        elif node is not None:
            found.entries[name] = node.after_crash(keep)
    found.durable = dict(found.entries)
    return found


def _state(node: _Node, met: dict[int, int]) -> Hashable:
    """A node with all below it; one that was met before is its number, so that what is linked differs from a twin."""
    if id(node) in met:
        return met[id(node)]
    met[id(node)] = len(met)
    if isinstance(node, _File):
        return node.data, node.durable
    names = [tuple((name, _state(view[name], met)) for name in sorted(view)) for view in (node.entries, node.durable)]
    return *names, frozenset(node.moved_away), node.modified


def _entry(name: str, node: _Node) -> Entry:
    return Entry(name, "file", len(node.data)) if isinstance(node, _File) else Entry(name, "directory", 0)


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
