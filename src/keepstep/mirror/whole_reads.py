"""Ranges of a place that has none: an object is read once, from its start, and cut here."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator

_KEPT = 8
"""Pieces of an object that are kept after they went by: those that ask side by side ask nearly in order."""
_OBJECTS = 4
"""Objects that are read at once."""


class WholeReads:
    """`read` opens an object and returns its bytes in pieces, from the start. May be used by several threads."""

    def __init__(self, read: Callable[[str], Iterator[bytes]]) -> None:
        self._read = read
        self._guard = threading.Lock()
        self._open: OrderedDict[str, _Passing] = OrderedDict()

    def range(self, key: str, start: int, length: int) -> bytes:
        """Bytes of an object, fewer at its end; what has gone by is read again. Raises what `read` does."""
        with self._guard:
            passing = self._open.setdefault(key, _Passing(lambda: self._read(key)))
            self._open.move_to_end(key)
            while len(self._open) > _OBJECTS:
                self._open.popitem(last=False)
        try:
            return passing.range(start, length)
        except BaseException:
            with self._guard:
                self._open.pop(key, None)
            raise


class _Passing:
    """One object on its way: the pieces that went by last."""

    def __init__(self, read: Callable[[], Iterator[bytes]]) -> None:
        self._read = read
        self._turn = threading.Lock()
        self._begin()

    def _begin(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._first = self._end = 0
        self._coming: Iterator[bytes] | None = None

    def range(self, start: int, length: int) -> bytes:
        with self._turn:
            if start < self._first:
                self._begin()
            if self._coming is None:
                self._coming = self._read()
            while self._end < start + length and (piece := next(self._coming, None)) is not None:
                self._pieces.append(piece)
                self._end += len(piece)
                while len(self._pieces) > _KEPT and self._first + len(self._pieces[0]) <= start:
                    self._first += len(self._pieces.popleft())
            return self._cut(start, start + length)

    def _cut(self, start: int, stop: int) -> bytes:
        found, at = bytearray(), self._first
        for piece in self._pieces:
            found += piece[max(0, start - at) : max(0, stop - at)]
            at += len(piece)
        return bytes(found)
