"""The manifests of a long run, as they were read last: one file in the user's cache directory in place of thousands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from keepstep.model import Checkpoint, FileEntry, Kind, State
from keepstep.paths import cache_home
from keepstep.stores import CacheFiles, Stamp, key_of

VERSION = 1
LARGEST_FILE, LARGEST = 64 * 2**20, 256 * 2**20
"""Bytes of one run's, some 50,000 checkpoints, and of all."""
_DIGEST_BYTES = 16


class _Row(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a manifest says; `said` are numbers of what many say alike."""

    name: str
    stamp: tuple[int, int, int, int]
    run_id: str
    generation: int
    timeline: int
    parent: int | None
    step: int
    epoch: float | None
    kind: Kind
    created: datetime
    metrics: dict[str, float]
    files: tuple[FileEntry, ...]
    said: tuple[int, int]
    lost: tuple[str, ...]


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
    return _Row(
        name=name,
        stamp=(stamp.size, stamp.inode, stamp.modified_ns, stamp.changed_ns),
        run_id=checkpoint.run_id,
        generation=checkpoint.generation,
        timeline=checkpoint.timeline,
        parent=checkpoint.parent,
        step=checkpoint.step,
        epoch=checkpoint.epoch,
        kind=checkpoint.kind,
        created=checkpoint.created,
        metrics=dict(checkpoint.metrics),
        files=checkpoint.files,
        said=(written_by, fingerprint),
        lost=checkpoint.lost,
    )


def _checkpoint(row: _Row, said: list[dict[str, Any]], path_of: Callable[[str], Path]) -> Checkpoint:
    return Checkpoint(
        run_id=row.run_id,
        generation=row.generation,
        timeline=row.timeline,
        parent=row.parent,
        step=row.step,
        epoch=row.epoch,
        kind=row.kind,
        created=row.created,
        metrics=row.metrics,
        files=row.files,
        written_by=said[row.said[0]],
        fingerprint=said[row.said[1]],
        state=State.COMMITTED,
        path=path_of(row.name),
        lost=row.lost,
    )
