"""Bytes of checkpoint directories that have no manifest: as they were measured before, or by a walk."""

from __future__ import annotations

import os
from pathlib import Path

from keepstep.operations.remembering import Known, Memory, Size, is_settled
from keepstep.operations.usage.inodes import Inodes, Sum
from keepstep.stock import STATE_NAME, Place, places_of


class Sizes:
    """Measures directories of checkpoints, each once. `afresh` walks over all of them and believes nothing."""

    def __init__(self, memory: Memory, inodes: Inodes | None = None, *, afresh: bool = False) -> None:
        self._memory, self._inodes, self._afresh = memory, inodes or Inodes(), afresh
        self._measured: dict[Path, dict[str, Sum]] = {}

    def of(self, path: Path, places: tuple[Place, ...] | None = None) -> dict[str, Sum]:
        """The bytes of each checkpoint's directory in a directory, by name; `places` are those, where known.

        A directory's mtime changes when a file appears in it, or goes, and not when one grows: what is young, has no
        `trainer_state.json` (which is written last), has directories in it, or files of several names, is walked.
        """
        if path in self._measured:
            return self._measured[path]
        known = self._memory.recall(path)
        before = dict[str, Size]() if self._afresh else known.sizes
        found: dict[str, Sum] = {}
        remembered: dict[str, Size] = {}
        for place in _places(path) if places is None else places:
            size = before.get(place.name)
            settled = is_settled(place.mtime_ns)
            if size is not None and size.mtime_ns == place.mtime_ns and settled:
                found[place.name], remembered[place.name] = Sum(size.files, size.directories, size.allocated), size
                continue
            found[place.name], lasting = self._walk(path / place.name)
            if lasting and settled:
                remembered[place.name] = Size(place.mtime_ns, *found[place.name])
        if remembered != known.sizes:
            self._memory.keep(path, Known(remembered, known.named))
        self._measured[path] = found
        return found

    def _walk(self, place: Path) -> tuple[Sum, bool]:
        """The bytes at and below a directory, and whether they stay the same while its mtime does."""
        linked, unreadable = self._inodes.linked, len(self._inodes.unreadable)
        files = directories = allocated = 0
        complete, deeper = False, -1
        for inode in self._inodes.walk(place):
            allocated += inode.allocated
            if inode.is_directory:
                directories += inode.size
                deeper += 1
            else:
                files += inode.size
                complete = complete or inode.path == STATE_NAME
        lasting = complete and not deeper and linked == self._inodes.linked
        return Sum(files, directories, allocated), lasting and unreadable == len(self._inodes.unreadable)


def _places(path: Path) -> tuple[Place, ...]:
    try:
        return places_of(path)
    except OSError:
        return ()


def total(sizes: dict[str, Sum]) -> int:
    """Bytes of the files of several checkpoints."""
    return sum(size.files for size in sizes.values())


def bytes_below(path: str | os.PathLike[str]) -> int:
    """Bytes of the files at and below one directory, by a walk."""
    return Inodes().sum(Path(path)).files
