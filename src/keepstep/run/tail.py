"""The lines that were added to a growing file since they were last read."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from keepstep.stores import Stamp, Store

PIECE = 2**20
MARK = 256
"""Bytes before the position that must still be the same: a file that was cut and has grown again is another one."""


class Added(msgspec.Struct, frozen=True):
    """Lines in order, some at a time; `anew` when they are all lines of another file than the one read before."""

    anew: bool
    lines: Iterator[list[bytes]]


class Tail:
    """Reads a file to which others append: each line once, and only when it is terminated.

    A file that shrank, was replaced or is gone is read from its start. Use up what one `read` gave before the next.
    """

    def __init__(self, store: Store, path: str) -> None:
        self._store = store
        self._path = path
        self._stamp: Stamp | None = None
        self._inode = 0
        self._position = 0
        self._mark = b""

    def read(self) -> Added:
        """What was added since the last read."""
        stamp = self._store.stamp(self._path)
        if stamp is not None and stamp == self._stamp:
            return Added(False, iter(()))
        anew = not self._goes_on(stamp)
        if anew:
            self._position, self._mark = 0, b""
        self._stamp = None
        return Added(anew, iter(()) if stamp is None else self._lines(stamp))

    def _goes_on(self, now: Stamp | None) -> bool:
        if not self._position:
            return True
        if now is None or now.inode != self._inode:
            return False
        start = self._position - len(self._mark)
        pieces = self._store.chunks(self._path, size=len(self._mark), start=start)
        return bytes(next(pieces, b"")) == self._mark

    def _lines(self, stamp: Stamp) -> Iterator[list[bytes]]:
        self._inode = stamp.inode
        rest = b""
        for piece in self._store.chunks(self._path, size=PIECE, start=self._position):
            data = rest + bytes(piece)
            *lines, rest = data.split(b"\n")
            taken = data[: len(data) - len(rest)]
            self._position += len(taken)
            self._mark = (self._mark + taken[-MARK:])[-MARK:]
            yield lines
        # Taken before the reading: what was appended meanwhile makes another stamp.
        self._stamp = stamp
