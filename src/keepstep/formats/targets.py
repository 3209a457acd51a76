"""Where the ranges of a file go in memory, and what lies between them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple


class Target(NamedTuple):
    """Where a range of the file goes: its offset in bytes, and writable memory of the range's length."""

    offset: int
    view: memoryview

    @property
    def end(self) -> int:
        return self.offset + self.view.nbytes


class Targets:
    """Targets in file order, not overlapping."""

    def __init__(self, targets: Sequence[Target]) -> None:
        self._targets = targets
        self._starts = [target.offset for target in targets]

    def views(self, start: int, end: int, scratch: memoryview) -> list[memoryview]:
        """Memory for the file's bytes from `start` to `end`, in order; `scratch` takes what has no target."""
        views: list[memoryview] = []
        index = max(bisect_right(self._starts, start) - 1, 0)
        used, position = 0, start
        while position < end:
            while index < len(self._targets) and self._targets[index].end <= position:
                index += 1
            target = self._targets[index] if index < len(self._targets) else Target(end, memoryview(b""))
            if target.offset > position:
                length = min(target.offset, end) - position
                views.append(scratch[used : used + length])
                used += length
            else:
                length = min(target.end, end) - position
                views.append(target.view[position - target.offset : position - target.offset + length])
            position += length
        return views
