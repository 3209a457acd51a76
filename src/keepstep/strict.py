"""What strict JSON lacks, as it can carry it: numbers that are not finite, and bytes of a path that are no UTF-8."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast


def finite_or_name(value: float) -> float | str:
    """The number; NaN and the infinities as the names that float() reads back."""
    if math.isfinite(value):
        return value
    return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")


def valid_text(text: str) -> str:
    """The text; what Python has made of bytes that are no UTF-8 shown escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def changed(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value with every name and every leaf of its objects and arrays put through `change`."""
    if isinstance(value, dict):
        members = cast("dict[Any, Any]", value).items()
        return {change(str(name)): changed(item, change) for name, item in members}
    if isinstance(value, (list, tuple)):
        return [changed(item, change) for item in cast("list[Any]", value)]
    return change(value)
