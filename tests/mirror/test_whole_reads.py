"""Ranges cut from whole objects: in any order, side by side, and after what came was wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from keepstep.mirror.whole_reads import WholeReads

DATA = random.Random(3).randbytes(40_000)


class _Place:
    def __init__(self, fails: int = 0) -> None:
        self.read_bytes, self.opened, self.fails = 0, 0, fails

    def read(self, key: str) -> Iterator[bytes]:
        self.opened += 1
        for start in range(0, len(DATA), 1000):
            if self.fails and start == 5000:
                self.fails -= 1
                raise OSError(key)
            self.read_bytes += 1000
            yield DATA[start : start + 1000]


def test_ranges_in_order_read_an_object_once() -> None:
    place = _Place()
    whole = WholeReads(place.read)
    assert b"".join(whole.range("a", start, 700) for start in range(0, len(DATA), 700)) == DATA
    assert (place.opened, place.read_bytes) == (1, len(DATA))
    assert whole.range("a", len(DATA), 10) == b"" and whole.range("a", len(DATA) - 5, 10) == DATA[-5:]


def test_ranges_side_by_side_of_several_objects() -> None:
    place = _Place()
    whole = WholeReads(place.read)
    with ThreadPoolExecutor(8) as pool:
        parts = [(key, start) for key in "abc" for start in range(0, len(DATA), 1000)]
        found = pool.map(lambda part: whole.range(part[0], part[1], 1000), parts)
    assert list(found) == [DATA[start : start + 1000] for _, start in parts]
    assert place.opened < 30  # of 120 ranges


def test_what_went_by_is_read_again() -> None:
    place = _Place()
    whole = WholeReads(place.read)
    for start in (39_000, 0, 20_000, 100):
        assert whole.range("a", start, 1500) == DATA[start : start + 1500]


def test_after_an_error_it_begins_anew() -> None:
    whole = WholeReads(_Place(fails=1).read)
    with pytest.raises(OSError, match="a"):
        whole.range("a", 0, 10_000)
    assert whole.range("a", 0, 10_000) == DATA[:10_000]


def test_few_objects_are_open_at_once() -> None:
    place = _Place()
    whole = WholeReads(place.read)
    for key in "abcdefgh":
        assert whole.range(key, 0, 10) == DATA[:10]
    assert whole.range("h", 10, 10) == DATA[10:20] and place.opened == 8
    assert whole.range("a", 10, 10) == DATA[10:20] and place.opened == 9
