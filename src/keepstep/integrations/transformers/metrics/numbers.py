"""What is a number in what others evaluate and log, and how JSON can carry the rest of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from numbers import Real
from typing import Any, cast

_PLAIN = (str, int, float, bool, type(None))
"""What JSON carries as it is; numpy's float64 is a float."""
LeaveOut = Callable[[str], None]
"""Hears the name of each part that JSON can't carry."""


def number(value: Any) -> float | None:
    """The value as a float, whatever has made it: Python, numpy, a tensor of one element; None when it is no number.

    A text is none, even one that could be read as a number.
    """
    try:
        item = getattr(value, "item", None)
        found = item() if callable(item) else value
        return None if isinstance(found, (str, bytes, bytearray)) else float(cast(Any, found))
    except (TypeError, ValueError, ArithmeticError, RuntimeError):
        return None


def writable(value: Any, leave_out: LeaveOut, name: str = "") -> Any:
    """The value as JSON can carry it, the same object where it can already; None where nothing of it can be carried.

    Numbers, arrays and tensors of any library become Python's own numbers and lists. What is none of these is left
    out of the object or array that it is in, and `leave_out` hears its name.
    """
    return next(_parts(value, leave_out, name), None)


def _parts(value: Any, leave_out: LeaveOut, name: str) -> Iterator[Any]:
    """The value as JSON can carry it, once or not at all."""
    if isinstance(value, _PLAIN):
        yield value
    elif isinstance(value, dict):
        yield _members(cast("dict[Any, Any]", value), leave_out, name)
    elif isinstance(value, (list, tuple)):
        items = enumerate(cast("list[Any]", value))
        yield [part for place, item in items for part in _parts(item, leave_out, f"{name}[{place}]")]
    elif (plain := _in_python(value)) is not None:
        yield from _parts(plain, leave_out, name)
    else:
        leave_out(name)


def _members(members: dict[Any, Any], leave_out: LeaveOut, name: str) -> dict[Any, Any]:
    if all(type(key) is str and type(item) in _PLAIN for key, item in members.items()):
        return members
    found: dict[str, Any] = {}
    for key, item in members.items():
        full = f"{name}.{key}" if name else str(key)
        plain = key if isinstance(key, _PLAIN) else _in_python(key)
        if not isinstance(plain, _PLAIN) or (plain is None and key is not None):
            leave_out(full)
            continue
        word = plain if isinstance(plain, str) else json.dumps(plain)
        for part in _parts(item, leave_out, full):
            found[word] = part
    return found


def _in_python(value: Any) -> Any:
    """A number, array or tensor of some library as Python's own; None for what is none, or can't be read."""
    try:
        listed = value.tolist() if callable(getattr(value, "tolist", None)) else value
    except (TypeError, ValueError, RuntimeError):
        return None
    if type(listed) is not type(value):
        return listed
    return number(value) if isinstance(value, (Real, Decimal)) else None
