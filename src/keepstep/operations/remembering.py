"""What was measured of checkpoint directories that keepstep does not manage, kept in the user's cache directory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from keepstep.paths import cache_home
from keepstep.stores import CacheFiles, key_of

VERSION = 1
YOUNGEST_NS = 5 * 60 * 10**9
"""Age below which nothing is believed of a directory: a checkpoint that is being written changes within it."""
LARGEST = 64 * 2**20
"""Bytes of all files of the cache; above it the ones that were written longest ago go."""
LARGEST_FILE = 16 * 2**20
_ENDING = ".runs"


class Size(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Bytes of a checkpoint's directory when that had this mtime: of files, of directories, and allocated of both."""

    mtime_ns: int
    files: int
    directories: int
    allocated: int


class Named(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The metric that the arguments in a checkpoint name, of the mtime of its directory; None where they name none."""

    checkpoint: str
    mtime_ns: int
    metric: str | None
    mode: str | None


class Known(msgspec.Struct, frozen=True, gc=False):
    """What is remembered of one directory of checkpoints: sizes by the names of their directories."""

    sizes: Mapping[str, Size] = {}
    named: Named | None = None


class _File(msgspec.Struct, frozen=True):
    version: int
    path: bytes
    known: Known


_ENCODER, _DECODER = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(_File)


class Memory:
    """What is known of directories of checkpoints, in a file for each. It is a cache, as `CacheFiles` says; what is
    torn, or of another version, says nothing. `home` None keeps nothing.
    """

    def __init__(self, home: Path | None) -> None:
        self._files = CacheFiles(home, _ENDING, largest_file=LARGEST_FILE, largest=LARGEST)

    @classmethod
    def of_user(cls) -> Memory:
        """The one in `$XDG_CACHE_HOME/keepstep`, or `~/.cache/keepstep`; none where `KEEPSTEP_NO_CACHE` is set."""
        home = cache_home()
        return cls(None if home is None else home / "runs")

    def recall(self, place: Path) -> Known:
        """What is known of a directory of checkpoints, as it was measured: compare the mtime."""
        try:
            found = _DECODER.decode(self._files.read(place))
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return Known()
        return found.known if (found.version, found.path) == (VERSION, key_of(place)) else Known()

    def keep(self, place: Path, known: Known) -> None:
        """Remember this of a directory, in place of what was known; of two processes at once, the last one's."""
        self._files.write(place, _ENCODER.encode(_File(VERSION, key_of(place), known)))

    def trim(self) -> None:
        """Remove what was written longest ago, where something was written and all of it is too large."""
        self._files.trim()


def is_settled(mtime_ns: int, now_ns: int | None = None) -> bool:
    """True for a directory that has not changed for a while, so that what was measured of it may be remembered."""
    return (time.time_ns() if now_ns is None else now_ns) - mtime_ns >= YOUNGEST_NS
