"""Tests of sizes, ages and numbers for people."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from keepstep.errors import QuantityError
from keepstep.units import (
    align_numbers,
    format_age,
    format_duration,
    format_number,
    format_size,
    parse_duration,
    parse_parameters,
    parse_size,
)

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


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16GB", 16 * 10**9),
        ("1.5 TiB", 3 * 2**39),
        (" 1MB ", 10**6),
        ("512MiB", 2**29),
        ("2GiB", 2**31),
        ("1TB", 10**12),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("250ms", 0.25), ("5min", 300), ("5m", 300), ("1.5h", 5400), ("2 d", 172_800)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(("text", "number"), [("13B", 13 * 10**9), ("7.2b", 72 * 10**8), ("350M", 350 * 10**6)])
def test_parameter_counts_are_read(text: str, number: int) -> None:
    assert parse_parameters(text) == number


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("16", "a bare number is not a size"),
        ("0GB", "zero"),
        ("-1GB", "is not a size"),
        ("GB", "is not a size"),
        ("", "is not a size"),
        ("1e9GB", "is not a size"),
        ("nanGB", "is not a size"),
        ("infTB", "is not a size"),
        ("1xb", "there is no unit 'xb'"),
        ("1GB/s", "is not a size"),
        ("99999999999999999999TB", "beyond any machine"),
        ("9" * 5000 + "GB", "is not a size"),
        ("\u0663GB", "is not a size"),
    ],
)
def test_what_is_no_size_says_so(text: str, part: str) -> None:
    with pytest.raises(QuantityError, match=part) as caught:
        parse_size(text)
    assert "Write it like 16GB" in caught.value.hint


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.25, "0.25 s"), (9.4, "9.4 s"), (31.2, "31 s"), (270, "4.5 min"), (43_200, "12 h"), (820_800, "9.5 d")],
)
def test_durations_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_no_end_is_never() -> None:
    assert format_duration(math.inf) == "never"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("200GB", 200 * 10**9),
        (" 512 MiB ", 512 * 2**20),
        ("1.5tb", 1_500_000_000_000),
        ("0.1GB", 100_000_000),
        ("3TiB", 3 * 2**40),
    ],
)
def test_sizes_of_settings_are_read(text: str, size: int) -> None:
    assert parse_size(text, "budget") == size


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("200", "a bare number"),
        (200, "a bare number"),
        (2e11, "a bare number|not a size"),
        ("much", "not a size|no unit"),
        ("16 parsecs", "not a size|no unit"),
        ("-1GB", "not a size|no unit"),
        ("1e3GB", "not a size|no unit"),
        ("GB", "not a size|no unit"),
        ("", "not a size|no unit"),
        (True, "not a size|no unit"),
        ("0GB", "zero"),
    ],
)
def test_what_is_no_size_is_refused(text: object, problem: str) -> None:
    with pytest.raises(QuantityError, match=f"^budget .*({problem})") as error:
        parse_size(text, "budget")
    assert error.value.hint
