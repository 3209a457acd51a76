"""What a command found as tab-separated lines: a heading, then a line for each row, the same columns every time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from keepstep.cli.drawing.text import clean

FIELDS = ("field", "value")


def line(cells: Iterable[object]) -> str:
    """One line: a tab in a cell becomes `\\t`, a line break `\\n`, a backslash `\\\\`; nothing is an empty cell."""
    return "\t".join(cell(value) for value in cells)


def cell(value: object) -> str:
    """One value without power over a terminal; what has parts is joined by `; `, names and values by `=`."""
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return "; ".join(f"{cell(name)}={cell(one)}" for name, one in pairs)
    if isinstance(value, (list, tuple)):
        items = cast("Sequence[object]", value)
        return "; ".join(_compact(one) if _has_parts(one) else cell(one) for one in items)
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return clean(str(value).replace("\\", "\\\\"))


def lines(document: Any, *, rows: str | None = None, columns: Sequence[str] = ()) -> Iterator[str]:
    """The lines of a command's JSON document.

    A list of objects is a table; `rows` names the member that is one. Any other object is a table of the columns
    field and value, in which parts of parts are named `metrics.eval_loss`. `columns` are those of an empty table.
    """
    found = document if rows is None else document[rows]
    if not isinstance(found, list):
        yield line(FIELDS)
        for name, value in _flat("", found):
            yield line((name, value))
        return
    objects = cast("list[dict[str, object]]", found)
    heading = tuple(dict.fromkeys(name for one in objects for name in one)) or tuple(columns)
    if heading:
        yield line(heading)
    for one in objects:
        yield line(one.get(name) for name in heading)


def _flat(prefix: str, value: object) -> Iterator[tuple[str, object]]:
    parts = None
    if isinstance(value, Mapping):
        parts = [(str(name), one) for name, one in cast("Mapping[object, object]", value).items()]
    elif isinstance(value, (list, tuple)):
        items = cast("Sequence[object]", value)
        if any(isinstance(one, Mapping) for one in items):
            parts = [(str(number), one) for number, one in enumerate(items)]
    if parts is None:
        yield prefix, value
        return
    for name, one in parts:
        yield from _flat(f"{prefix}.{name}" if prefix else name, one)


def _has_parts(value: object) -> bool:
    return isinstance(value, (dict, list))


def _compact(value: object) -> str:
    return cell(json.dumps(value, separators=(",", ":"), default=str))
