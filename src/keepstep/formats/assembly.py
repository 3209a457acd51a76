"""The bytes of a layout in file order, as aligned requests: from where they lie, or through a bounce buffer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from keepstep.formats.digests import crc32
from keepstep.formats.kernel import Alignment
from keepstep.formats.layout import FileLayout
from keepstep.formats.memory import address, copy

WORTH_A_SEGMENT = 64 * 1024
"""Bytes below which a copy into the bounce buffer is cheaper than a segment of its own in the request."""


class Request(NamedTuple):
    """Buffers to be written one behind the other at `offset`; zeros may follow the file's own `length` bytes."""

    offset: int
    length: int
    buffers: list[memoryview]


class Assembly:
    """Walks a layout once, front to back, and computes the CRC-32 of each source where the layout wants them.

    A source is written from where it lies when its address is congruent to its file offset modulo the alignment of
    memory; it must not change before its request is written.
    """

    def __init__(self, layout: FileLayout, sources: Mapping[str, memoryview], alignment: Alignment) -> None:
        self._layout = layout
        self._alignment = alignment
        self._checksums: dict[str, int] = {}
        self._regions = self._walk(sources)
        self._data = memoryview(b"")
        self._source: str | None = None
        self._base = 0

    def request(self, offset: int, length: int, bounce: memoryview) -> Request:
        """The next `length` bytes of the file, from `offset`; `bounce` (aligned, at least as long) is used up."""
        parts = _Parts(bounce)
        position, end = offset, offset + length
        while position < end:
            if self._data.nbytes == 0:
                self._next_region()
            taken = self._take(position, end - position)
            view, self._data = self._data[:taken], self._data[taken:]
            if self._source is not None and self._layout.checksummed:
                self._checksums[self._source] = crc32(view, self._checksums.get(self._source, 0))
            if self._lies_well(position, taken):
                parts.direct(view)
            else:
                parts.copied(view)
            position += taken
            self._base = self._base and self._base + taken
        parts.pad(-length % self._alignment.file)
        return Request(offset, length, parts.close())

    def _take(self, position: int, room: int) -> int:
        size = min(self._data.nbytes, room)
        if self._source is None or not self._congruent(position):
            return size
        to_boundary = -position % self._alignment.file
        if to_boundary:
            return min(size, to_boundary)
        whole = size - size % self._alignment.file
        return whole if whole >= WORTH_A_SEGMENT else size

    def _lies_well(self, position: int, size: int) -> bool:
        unit = self._alignment.file
        whole = size >= WORTH_A_SEGMENT and size % unit == 0 and position % unit == 0
        return whole and self._source is not None and self._congruent(position)

    def _congruent(self, position: int) -> bool:
        return self._base != 0 and (self._base - position) % self._alignment.memory == 0

    def _next_region(self) -> None:
        self._source, self._data = next(self._regions)
        self._base = address(self._data)

    def _walk(self, sources: Mapping[str, memoryview]) -> Iterator[tuple[str | None, memoryview]]:
        for piece in self._layout.pieces:
            if piece.source is not None:
                yield piece.source, sources[piece.source]
            elif piece.literal is not None:
                yield None, memoryview(piece.literal)
            elif piece.late is not None:
                made = piece.late(self._checksums)
                if len(made) != piece.length:
                    raise ValueError(f"a late piece made {len(made):,} bytes instead of {piece.length:,}")
                yield None, memoryview(made)


class _Parts:
    """Buffers of one request: runs in the bounce buffer between views of sources."""

    def __init__(self, bounce: memoryview) -> None:
        self._bounce = bounce
        self._start = self._end = 0
        self._buffers: list[memoryview] = []

    def copied(self, view: memoryview) -> None:
        copy(self._bounce[self._end : self._end + view.nbytes], view)
        self._end += view.nbytes

    def direct(self, view: memoryview) -> None:
        self._flush()
        self._buffers.append(view)

    def pad(self, size: int) -> None:
        self._bounce[self._end : self._end + size] = bytes(size)
        self._end += size

    def close(self) -> list[memoryview]:
        self._flush()
        return self._buffers

    def _flush(self) -> None:
        if self._end > self._start:
            self._buffers.append(self._bounce[self._start : self._end])
            self._start = self._end
