"""What was read of a directory, kept in a file of the user's cache directory, to be read again by the next process."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import xxhash


class CacheFiles:
    """A file for each directory that something is known of, all below one directory of this user's.

    It is a cache: it can be deleted at any time, what another user wrote says nothing, and what can't be written is
    not. `home` None keeps nothing. `largest_file` and `largest` are bytes of one file, and of all.
    """

    def __init__(self, home: Path | None, ending: str, *, largest_file: int, largest: int) -> None:
        self._home = home
        self._ending = ending
        self._largest_file = largest_file
        self._largest = largest
        self._wrote = False

    def read(self, place: Path) -> bytes:
        """What is kept of a directory; nothing where that is nothing, or too large."""
        if self._home is None:
            return b""
        try:
            with open(self._home / self._name(place), "rb") as file:
                found = os.fstat(file.fileno())
                ours = found.st_uid == os.geteuid() and found.st_size <= self._largest_file
                return file.read(self._largest_file) if ours else b""
        except OSError:
            return b""

    def write(self, place: Path, data: bytes) -> None:
        """Keep this of a directory in place of what was kept; of two processes at once, the last one's."""
        if self._home is None or len(data) > self._largest_file:
            return
        target = self._home / self._name(place)
        temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
        try:
            if not self._wrote:
                self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._wrote = True
            with open(temporary, "xb") as file:
                file.write(data)
            # Not synced: what a crash tears is read as nothing.
            os.replace(temporary, target)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def trim(self) -> None:
        """Remove what was written longest ago, where something was written and all of it is too large."""
        if self._home is None or not self._wrote:
            return
        with suppress(OSError), os.scandir(self._home) as entries:
            found = [(s.st_mtime_ns, s.st_size, e.path) for e in entries if (s := e.stat(follow_symlinks=False))]
            total = sum(size for _, size, _ in found)
            for _, size, path in sorted(found) if total > self._largest else ():
                if total <= self._largest // 2:
                    break
                with suppress(OSError):
                    os.unlink(path)
                total -= size

    def _name(self, place: Path) -> str:
        return xxhash.xxh3_128_hexdigest(key_of(place)) + self._ending


def key_of(place: Path) -> bytes:
    """A directory, however it is spelt."""
    return os.fsencode(os.path.realpath(place))
