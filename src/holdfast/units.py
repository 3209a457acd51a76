"""Sizes, ages and numbers as people read them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

_SIZE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_AGE_UNITS = ((60, 1, "s"), (3_600, 60, "min"), (48 * 3_600, 3_600, "h"), (60 * 86_400, 86_400, "d"))
"""Ages below so many seconds are given in units of so many seconds."""


def format_size(size: int) -> str:
    """Bytes in decimal units: `999 B`, `1.4 kB`, `140 GB`."""
    value, unit = float(size), 0
    while unit + 1 < len(_SIZE_UNITS) and float(_digits(value, unit)) >= 1000:
        value, unit = value / 1000, unit + 1
    return f"{_digits(value, unit)} {_SIZE_UNITS[unit]}"


def format_age(created: datetime, now: datetime) -> str:
    """Time since then in one unit, rounded down: `12 s`, `3 min`, `5 h`, `9 d`, `4 mo`, `2 y`; `0 s` in the future."""
    seconds = max(int((now - created).total_seconds()), 0)
    for limit, size, name in _AGE_UNITS:
        if seconds < limit:
            return f"{seconds // size} {name}"
    days = seconds // 86_400
    return f"{days // 30} mo" if days < 730 else f"{days // 365} y"


def format_moment(moment: datetime) -> str:
    """`2026-11-20 12:00:00 UTC`."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def format_number(value: float) -> str:
    """Six significant digits: `0.302134`, `1e-07`, `NaN`."""
    return "NaN" if math.isnan(value) else f"{value:.6g}"


def align_numbers(values: list[float | None]) -> list[str]:
    """The numbers of one column with the same number of decimals, so that they can be compared at a glance."""
    texts = ["" if value is None else format_number(value) for value in values]
    decimals = max((len(text.partition(".")[2]) for text in texts if "e" not in text), default=0)
    return [
        text if value is None or not math.isfinite(value) or "e" in text else f"{value:.{decimals}f}"
        for value, text in zip(values, texts, strict=True)
    ]


def _digits(value: float, unit: int) -> str:
    return f"{value:.0f}" if unit == 0 or value >= 99.95 else f"{value:.1f}"
