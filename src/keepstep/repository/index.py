"""The manifests of a long run, as they were read last: one file in the user's cache directory in place of thousands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import xxhash
from msgspec.structs import replace

from keepstep.model import Checkpoint
from keepstep.paths import cache_home
from keepstep.stores import CacheFiles, Stamp, key_of

VERSION = 1
LARGEST_FILE, LARGEST = 64 * 2**20, 256 * 2**20
"""Bytes of one run's, some 50,000 checkpoints, and of all."""
_DIGEST_BYTES = 16


class _Row(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A checkpoint without its place and without what many say alike, of which `said` are the numbers."""

    name: str
    stamp: tuple[int, int, int, int]
    checkpoint: Checkpoint
    said: tuple[int, int]


class _File(msgspec.Struct, frozen=True, array_like=True):
    version: int
    place: bytes
    said: list[dict[str, Any]]
    rows: list[_Row]


_ENCODER, _DECODER = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(_File)


class Index:
    """Checkpoints of the run in a directory. A manifest that was sound when it was read is taken from here for as long
    as its file has the same inode, size and times: whoever asks compares the stamps.

    A cache, as `CacheFiles` says; what is torn or changed in it says nothing.
    """

    def __init__(self, home: Path | None, place: Path) -> None:
        self._files = CacheFiles(home, ".manifests", largest_file=LARGEST_FILE, largest=LARGEST)
        self._place = place

    @classmethod
    def of_user(cls, place: Path) -> Index:
        """The one in the user's cache directory (`paths.cache_home`)."""
        home = cache_home()
        return cls(None if home is None else home / "manifests", place)

    def recall(self, path_of: Callable[[str], Path]) -> dict[str, tuple[Stamp, Checkpoint]]:
        """What is known, by the names of directories, with the stamps of their manifests; `path_of` gives the place of
        a name.
        """
        data = self._files.read(self._place)
        if not data or xxhash.xxh3_128_digest(data[_DIGEST_BYTES:]) != data[:_DIGEST_BYTES]:
            return {}
        try:
            file = _DECODER.decode(memoryview(data)[_DIGEST_BYTES:])
            if (file.version, file.place) != (VERSION, key_of(self._place)):
                return {}
            return {row.name: (Stamp("file", *row.stamp), _checkpoint(row, file.said, path_of)) for row in file.rows}
        except (msgspec.MsgspecError, ValueError, IndexError, RecursionError):
            return {}

    def keep(self, known: Mapping[str, tuple[Stamp, Checkpoint]]) -> None:
        """Remember these in place of what was known."""
        numbers: dict[bytes, int] = {}
        try:
            rows = [_row(name, stamp, checkpoint, numbers) for name, (stamp, checkpoint) in known.items()]
            said = [msgspec.msgpack.decode(each, type=dict[str, Any]) for each in numbers]
            data = _ENCODER.encode(_File(VERSION, key_of(self._place), said, rows))
        except (TypeError, ValueError, OverflowError, RecursionError):  # numbers that JSON has, and msgpack has not
            return
        self._files.write(self._place, xxhash.xxh3_128_digest(data) + data)
        self._files.trim()


def _row(name: str, stamp: Stamp, checkpoint: Checkpoint, numbers: dict[bytes, int]) -> _Row:
    written_by, fingerprint = (
        numbers.setdefault(_ENCODER.encode(each), len(numbers))
        for each in (checkpoint.written_by, checkpoint.fingerprint)
    )
    alone = replace(checkpoint, path=None, written_by={}, fingerprint={})
    return _Row(name, stamp[1:], alone, (written_by, fingerprint))


def _checkpoint(row: _Row, said: list[dict[str, Any]], path_of: Callable[[str], Path]) -> Checkpoint:
    written_by, fingerprint = row.said
    return replace(row.checkpoint, path=path_of(row.name), written_by=said[written_by], fingerprint=said[fingerprint])
