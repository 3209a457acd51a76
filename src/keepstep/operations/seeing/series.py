"""One logged metric of one attempt: its values by step, and few of them that show the same."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator

BLOCK = 64
"""Values whose extremes are kept, so that a long curve is not read again for every picture."""


class Series:
    """Values by step, in the order of their steps; of equal steps in the order in which they came."""

    def __init__(self) -> None:
        self.steps = array("q")
        self.values = array("d")
        self.last = -1
        """The highest step, -1 before the first."""
        self._low: list[int] = []
        self._high: list[int] = []
        self._odd: list[int] = []

    def add(self, step: int, value: float) -> None:
        """Take one more value."""
        if step < self.last:
            place = bisect_right(self.steps, step)
            self.steps.insert(place, step)
            self.values.insert(place, value)
            for extremes in (self._low, self._high, self._odd):
                del extremes[place // BLOCK :]
        else:
            self.last = step
            self.steps.append(step)
            self.values.append(value)

    def window(self, start: float, stop: float) -> tuple[int, int]:
        """The places of the values with `start <= step <= stop`: the first, and the one behind the last."""
        return bisect_left(self.steps, start), bisect_right(self.steps, stop)

    def pick(self, begin: int, end: int, points: int) -> list[int]:
        """At most `points` places of those from `begin` to `end`: first, last, and the extremes of equal pieces.

        All of them where there are no more. Of a piece with values that are not finite, one of those is picked too.
        """
        if end - begin <= points:
            return list(range(begin, end))
        # Each piece gives three places at most, and the ends of the window are two more; a window that begins or ends
        # within a piece has one piece more than its length would make.
        pieces = max((points - 2) // 3 - 1, 1)
        size = -(-(end - begin) // pieces)
        # Few lengths, and pieces that begin at their multiples: what was drawn stays where it is when more is added.
        size = -(-size // BLOCK) * BLOCK if size > BLOCK else 1 << (size - 1).bit_length()
        picked = {begin, end - 1} if points > 1 else {end - 1}
        if points < 8:
            return sorted(picked)
        for first in range(begin - begin % size, end, size):
            picked.update(self._extremes(max(first, begin), min(first + size, end)))
        return sorted(picked)

    def _extremes(self, begin: int, end: int) -> Iterator[int]:
        low = high = odd = -1
        values = self.values
        for one_low, one_high, one_odd in self._pieces(begin, end):
            if one_low >= 0:
                low = one_low if low < 0 or values[one_low] < values[low] else low
                high = one_high if high < 0 or values[one_high] > values[high] else high
            odd = one_odd if odd < 0 else odd
        return (place for place in (low, high, odd) if place >= 0)

    def _pieces(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Least, greatest and first odd place of each whole block, and of what is left before and behind them."""
        first, last = -(-begin // BLOCK), end // BLOCK
        if first >= last:
            yield self._look(begin, end)
            return
        self._know(last)
        if begin < first * BLOCK:
            yield self._look(begin, first * BLOCK)
        yield from zip(self._low[first:last], self._high[first:last], self._odd[first:last], strict=True)
        if last * BLOCK < end:
            yield self._look(last * BLOCK, end)

    def _know(self, blocks: int) -> None:
        """Keep the extremes of so many blocks."""
        for block in range(len(self._low), blocks):
            low, high, odd = self._look(block * BLOCK, (block + 1) * BLOCK)
            self._low.append(low)
            self._high.append(high)
            self._odd.append(odd)

    def _look(self, begin: int, end: int) -> tuple[int, int, int]:
        """The places of the least and the greatest finite value, and of the first other one; -1 for none."""
        piece = self.values[begin:end]
        if math.isfinite(sum(piece)):
            return begin + piece.index(min(piece)), begin + piece.index(max(piece)), -1
        finite = [place for place, value in enumerate(piece) if math.isfinite(value)]
        odd = next((place for place, value in enumerate(piece) if not math.isfinite(value)), -1)
        low = min(finite, key=piece.__getitem__, default=-1 - begin)
        high = max(finite, key=piece.__getitem__, default=-1 - begin)
        return begin + low, begin + high, -1 if odd < 0 else begin + odd
