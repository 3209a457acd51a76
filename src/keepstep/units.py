"""Sizes, ages and numbers as people read them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache

from keepstep.errors import QuantityError

SIZES = {"MB": 10**6, "GB": 10**9, "TB": 10**12, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
"""Bytes of each unit that a size is written in."""
DURATIONS = {"ms": 0.001, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
"""Seconds of each unit that a duration is written in."""
COUNTS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
"""What each letter behind a parameter count stands for."""
_LARGEST = 10**21
# Compiled where they are first asked for: a command that only lists asks for none.
_QUANTITY = r"([0-9]{1,22}(?:\.[0-9]{1,22})?) ?([A-Za-z]*)"
_PART = r"[0-9]+ ?[A-Za-z]+"
_PARTS = rf"(?:{_PART} ?){{2,6}}"
_ROUNDS_TO_1000 = 999.5
_SIZE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_AGE_UNITS = ((60, 1, "s"), (3_600, 60, "min"), (48 * 3_600, 3_600, "h"), (60 * 86_400, 86_400, "d"))
"""Ages below so many seconds are given in units of so many seconds."""


@lru_cache(maxsize=4096)
def format_size(size: int) -> str:
    """Bytes in decimal units: `999 B`, `1.4 kB`, `140 GB`."""
    value, unit = float(size), 0
    while value >= _ROUNDS_TO_1000 and unit + 1 < len(_SIZE_UNITS):
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


def parse_size(text: object, what: str | None = None) -> int:
    """Bytes of a size such as `16GB` or `1.5 TiB`, rounded down; `what` names the setting in errors.

    Raises QuantityError, also without a unit: nobody can know what a bare number counts.
    """
    return int(_parse(text, SIZES, "a size", "16GB", name=what))


def parse_duration(text: object, what: str | None = None) -> float:
    """Seconds of a duration such as `30s`, `5min`, `1.5h` or `7h50m`; `what` names the setting in errors.

    Raises QuantityError, also without a unit.
    """
    if isinstance(text, str) and re.fullmatch(_PARTS, text.strip()):
        return sum(_parse(part, DURATIONS, "a duration", "30s", name=what) for part in re.findall(_PART, text))
    return _parse(text, DURATIONS, "a duration", "30s", name=what)


def parse_parameters(text: str) -> int:
    """A number of parameters such as `13B`, `7.2b` or `350M`. Raises QuantityError, also without a letter."""
    return int(_parse(text, COUNTS, "a number of parameters", "13B"))


def format_duration(seconds: float) -> str:
    """Seconds in one unit, with two digits below ten: `0.25 s`, `31 s`, `4.5 min`, `9.5 d`; `never` for infinity."""
    if math.isinf(seconds):
        return "never"
    for limit, size, name in ((60, 1, "s"), (3_600, 60, "min"), (86_400, 3_600, "h")):
        if seconds < limit:
            return f"{_short(seconds / size)} {name}"
    return f"{_short(seconds / 86_400)} d"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}"


def _parse(text: object, units: Mapping[str, float], what: str, example: str, *, name: str | None = None) -> float:
    """The number times its unit, above zero and below what any machine holds."""
    shown = f"{name} {text!r}" if name else repr(text)
    found = re.fullmatch(_QUANTITY, str(text).strip()) if not isinstance(text, bool) else None
    hint = f"Write it like {example}; the units are {', '.join(units)}."
    if found is None:
        raise QuantityError(f"{shown} is not {what}", hint=hint)
    number, unit = found.groups()
    if not unit:
        raise QuantityError(f"{shown} has no unit: a bare number is not {what}", hint=hint)
    scale = {known.lower(): size for known, size in units.items()}.get(unit.lower())
    if scale is None:
        raise QuantityError(f"{shown}: there is no unit {unit!r} for {what}", hint=hint)
    value = float(Decimal(number) * Decimal(str(scale)))
    if not 0 < value <= _LARGEST:
        raise QuantityError(f"{shown} is {'zero' if value == 0 else 'beyond any machine'}", hint=hint)
    return value


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
