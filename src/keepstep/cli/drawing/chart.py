"""A curve as lines of text, with marks of steps below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_COARSE = " ...:::##"
_LARGEST = 1e300
"""Values beyond it are not drawn: their differences would have no room in a float."""


def curve_lines(
    curve: Sequence[tuple[int, float]], bounds: tuple[int, int], width: int, height: int, *, blocks: bool
) -> list[str]:
    """Lines, top first: the mean of the finite values in each column, from the least at the bottom to the greatest.

    `bounds` are the steps at the left and the right edge; columns without a value repeat the one before.
    """
    means = _columns(curve, bounds, width)
    known = [value for value in means if value is not None]
    if not known:
        return []
    low, high = min(known), max(known)
    levels = _EIGHTHS if blocks else _COARSE
    scale = (height * 8 - 1) / (high - low) if high > low else 0.0
    rows: list[str] = []
    for row in reversed(range(height)):
        cells: list[str] = []
        for value in means:
            eighths = 0 if value is None else 1 + round((value - low) * scale) - row * 8
            cells.append(levels[min(max(eighths, 0), len(levels) - 1)])
        rows.append("".join(cells))
    return rows


def limits(curve: Sequence[tuple[int, float]]) -> tuple[float, float] | None:
    """The least and the greatest finite value, None without one."""
    finite = [value for _, value in curve if _drawn(value)]
    return (min(finite), max(finite)) if finite else None


def mark_cells(marks: Mapping[int, str], bounds: tuple[int, int], width: int) -> dict[int, str]:
    """By column, the mark of the steps that fall into it; of several, the one that comes last in `marks`."""
    return {column_of(step, bounds, width): mark for step, mark in marks.items() if bounds[0] <= step <= bounds[1]}


def column_of(step: int, bounds: tuple[int, int], width: int) -> int:
    """The column of a step between the bounds."""
    first, last = bounds
    return 0 if last <= first else round((step - first) / (last - first) * (width - 1))


def _drawn(value: float) -> bool:
    return abs(value) <= _LARGEST  # not for NaN


def _columns(curve: Sequence[tuple[int, float]], bounds: tuple[int, int], width: int) -> list[float | None]:
    sums, counts = [0.0] * width, [0] * width
    for step, value in curve:
        if _drawn(value) and bounds[0] <= step <= bounds[1]:
            column = column_of(step, bounds, width)
            counts[column] += 1
            sums[column] += (value - sums[column]) / counts[column]
    means: list[float | None] = []
    before: float | None = None
    for mean, count in zip(sums, counts, strict=True):
        before = mean if count else before
        means.append(before)
    last = max((column for column, count in enumerate(counts) if count), default=-1)
    return [value if column <= last else None for column, value in enumerate(means)]
