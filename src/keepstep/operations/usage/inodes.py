"""A walk over files and directories that counts every inode once, as `du` does."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from keepstep.operations.seeing.finding import Unreadable

_BLOCK = 512
"""Bytes of the unit of `st_blocks`, whatever the file system's own block is (stat(2))."""

Names = Callable[[], Iterable[Path]]
"""Files that are counted already, by what a manifest says of them."""


class Inode(NamedTuple):
    """A file, a link or a directory: path relative to where the walk began ("" for that itself), and its bytes.

    `size` is the apparent one; `allocated` what the file system has set aside.
    """

    path: str
    is_directory: bool
    size: int
    allocated: int


class Sum(NamedTuple):
    """Bytes of several inodes: `files` (and links), apparent; `directories`, apparent; `allocated` of all of them."""

    files: int = 0
    directories: int = 0
    allocated: int = 0


class Inodes:
    """Walks that share what was seen: a file of several names (hard links) counts where it is met first."""

    def __init__(self) -> None:
        self.unreadable: list[Unreadable] = []
        self.linked = 0
        """Files of several names that were met so far, counted or not."""
        self._seen: set[tuple[int, int]] = set()
        self._counted: list[Names] = []

    def count_already(self, names: Names) -> None:
        """What `names` says is counted without a walk. It is asked only when a file of several names is met."""
        self._counted.append(names)

    def sum(self, place: Path, *, without: frozenset[str] = frozenset()) -> Sum:
        """Bytes at and below a file or directory; see `walk`."""
        files = directories = allocated = 0
        for inode in self.walk(place, without=without):
            if inode.is_directory:
                directories += inode.size
            else:
                files += inode.size
            allocated += inode.allocated
        return Sum(files, directories, allocated)

    def walk(self, place: Path, *, without: frozenset[str] = frozenset()) -> Iterator[Inode]:
        """Every inode at and below `place` that was not met yet; links are not followed.

        `without` are paths, as they are spelled below `place`, that are left out with all below them. What vanishes
        meanwhile is passed over; what can't be read is said in `unreadable`.
        """
        start = os.fspath(place)
        try:
            found = os.lstat(start)
        except FileNotFoundError:
            return
        except OSError as error:
            self._note(start, error)
            return
        if (inode := self._inode("", found)) is not None:
            yield inode
        if stat.S_ISDIR(found.st_mode):
            yield from self._below(start, "", without)

    def _below(self, directory: str, prefix: str, without: frozenset[str]) -> Iterator[Inode]:
        deeper: list[tuple[str, str]] = []
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.path in without:
                        continue
                    try:
                        inode = self._inode(f"{prefix}{entry.name}", entry.stat(follow_symlinks=False))
                    except FileNotFoundError:
                        continue
                    if inode is None:
                        continue
                    yield inode
                    if inode.is_directory:
                        deeper.append((entry.path, f"{prefix}{entry.name}/"))
        except FileNotFoundError:
            return
        except OSError as error:
            self._note(directory, error)
        for below, name in deeper:
            yield from self._below(below, name, without)

    def _inode(self, path: str, found: os.stat_result) -> Inode | None:
        is_directory = stat.S_ISDIR(found.st_mode)
        if found.st_nlink > 1 and not is_directory:
            self.linked += 1
            while self._counted:
                self._seen.update(_linked(self._counted.pop()()))
            key = (found.st_dev, found.st_ino)
            if key in self._seen:
                return None
            self._seen.add(key)
        return Inode(path, is_directory, found.st_size, found.st_blocks * _BLOCK)

    def _note(self, place: str, error: OSError) -> None:
        self.unreadable.append(Unreadable(Path(place), error.strerror or str(error)))


def _linked(names: Iterable[Path]) -> Iterator[tuple[int, int]]:
    """Identities of those that have several names."""
    for name in names:
        try:
            found = os.lstat(name)
        except OSError:
            continue
        if found.st_nlink > 1:
            yield found.st_dev, found.st_ino
