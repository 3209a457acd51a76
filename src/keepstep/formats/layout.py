"""A file as a sequence of regions: bytes known now, bytes of a source, and bytes that need checksums of sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import msgspec

from keepstep.formats.digests import Span

Checksums = Mapping[str, int]
"""CRC-32 by name of source."""
Late = Callable[[Checksums], bytes]
"""Makes a piece's bytes from the CRC-32 of the sources that lie before it in the file."""


class UnsupportedTensorError(ValueError):
    """A tensor can't be laid out here as stock writes it; the stock writer can be asked instead."""


class Piece(msgspec.Struct, frozen=True):
    """One region: `offset` and `length` in bytes, and exactly one of what fills it.

    `literal` is the bytes themselves; `source` names memory of `length` bytes that the writer is given; `late`
    makes the bytes from the CRC-32 of the sources before it.
    """

    offset: int
    length: int
    literal: bytes | None = None
    source: str | None = None
    late: Late | None = None


class FileLayout(msgspec.Struct, frozen=True, dict=True):
    """A whole file: pieces in file order without holes or overlaps; `size` in bytes.

    `checksummed` says that `late` pieces exist, so that a CRC-32 of every source is needed.
    """

    pieces: tuple[Piece, ...]
    size: int
    checksummed: bool = False

    @cached_property
    def offsets(self) -> dict[str, int]:
        """File offset in bytes of every source, by name, in file order.

        An arena that puts each source at an address congruent to this offset (modulo 4096) is written without a copy.
        """
        return {piece.source: piece.offset for piece in self.pieces if piece.source is not None}

    @cached_property
    def lengths(self) -> dict[str, int]:
        """Bytes of every source, by name, in file order."""
        return {piece.source: piece.length for piece in self.pieces if piece.source is not None}

    @property
    def spans(self) -> list[Span]:
        """Where every source lies, in file order."""
        return [Span(name, offset, offset + self.lengths[name]) for name, offset in self.offsets.items()]

    def check_sources(self, sources: Mapping[str, memoryview]) -> None:
        """Raises ValueError when a source is missing or has another length than its piece."""
        for name, length in self.lengths.items():
            if name not in sources:
                raise ValueError(f"the layout's source {name!r} was not given")
            if sources[name].nbytes != length:
                raise ValueError(f"the source {name!r} has {sources[name].nbytes:,} bytes, the layout {length:,}")


class LayoutBuilder:
    """Puts pieces one behind the other; empty ones are left out."""

    def __init__(self) -> None:
        self.size = 0
        self._pieces: list[Piece] = []
        self._checksummed = False

    def literal(self, data: bytes) -> None:
        """Append bytes that are known now."""
        self._append(len(data), Piece(self.size, len(data), literal=data))

    def source(self, name: str, length: int) -> None:
        """Append `length` bytes that the writer is given under this name."""
        self._append(length, Piece(self.size, length, source=name))

    def late(self, length: int, make: Late) -> None:
        """Append `length` bytes that `make` makes from checksums of sources."""
        self._checksummed = True
        self._append(length, Piece(self.size, length, late=make))

    def build(self) -> FileLayout:
        """The layout of everything appended."""
        return FileLayout(tuple(self._pieces), self.size, self._checksummed)

    def _append(self, length: int, piece: Piece) -> None:
        if length:
            self._pieces.append(piece)
            self.size += length
