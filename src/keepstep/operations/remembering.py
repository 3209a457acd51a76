"""What was measured of checkpoint directories that keepstep does not manage, kept in the user's cache directory."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

import msgspec

from keepstep.paths import cache_home

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
    """A file for each directory of checkpoints, below one directory of this user.

    It is a cache: what is torn, foreign or of another version says nothing, it can be deleted at any time, and what
    can't be written is not. `home` None keeps nothing.
    """

    def __init__(self, home: Path | None) -> None:
        self._home = home
        self._wrote = False

    @classmethod
    def of_user(cls) -> Memory:
        """The one in `$XDG_CACHE_HOME/keepstep`, or `~/.cache/keepstep`; none where `KEEPSTEP_NO_CACHE` is set."""
        home = cache_home()
        return cls(None if home is None else home / "runs")

    def recall(self, place: Path) -> Known:
        """What is known of a directory of checkpoints, as it was measured: compare the mtime."""
        if self._home is None:
            return Known()
        key = _key(place)
        try:
            with open(self._home / _name(key), "rb") as file:
                found = _DECODER.decode(file.read(LARGEST_FILE))
        except (OSError, msgspec.MsgspecError, ValueError, RecursionError):
            return Known()
        return found.known if (found.version, found.path) == (VERSION, key) else Known()

    def keep(self, place: Path, known: Known) -> None:
        """Remember this of a directory, in place of what was known; of two processes at once, the last one's."""
        if self._home is None:
            return
        key = _key(place)
        data = _ENCODER.encode(_File(VERSION, key, known))
        target = self._home / _name(key)
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
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
            for _, size, path in sorted(found) if total > LARGEST else ():
                if total <= LARGEST // 2:
                    break
                with suppress(OSError):
                    os.unlink(path)
                total -= size


def is_settled(mtime_ns: int, now_ns: int | None = None) -> bool:
    """True for a directory that has not changed for a while, so that what was measured of it may be remembered."""
    return (time.time_ns() if now_ns is None else now_ns) - mtime_ns >= YOUNGEST_NS


def _key(place: Path) -> bytes:
    return os.fsencode(os.path.realpath(place))


def _name(key: bytes) -> str:
    return blake2b(key, digest_size=16).hexdigest() + _ENDING
