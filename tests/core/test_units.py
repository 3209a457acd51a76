"""Tests of sizes, ages and numbers for people."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from holdfast.units import align_numbers, format_age, format_number, format_size

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1449, "1.4 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (1_400_000_000, "1.4 GB"),
        (140 * 10**9, "140 GB"),
        (5 * 10**18, "5000 PB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("age", "text"),
    [
        (timedelta(seconds=-5), "0 s"),
        (timedelta(seconds=59), "59 s"),
        (timedelta(seconds=60), "1 min"),
        (timedelta(minutes=59), "59 min"),
        (timedelta(minutes=60), "1 h"),
        (timedelta(hours=47), "47 h"),
        (timedelta(hours=48), "2 d"),
        (timedelta(days=59), "59 d"),
        (timedelta(days=60), "2 mo"),
        (timedelta(days=730), "2 y"),
    ],
)
def test_ages(age: timedelta, text: str) -> None:
    assert format_age(NOW - age, NOW) == text


def test_numbers() -> None:
    assert [format_number(v) for v in (0.5, 0.3021341, 1e-7, math.nan, -math.inf)] == [
        "0.5", "0.302134", "1e-07", "NaN", "-inf",
    ]  # fmt: skip


def test_a_column_of_numbers_has_the_same_decimals() -> None:
    assert align_numbers([0.5, None, 1.3021, math.nan, 1e-9]) == ["0.5000", "", "1.3021", "NaN", "1e-09"]
    assert align_numbers([3.0, 4.0]) == ["3", "4"]
