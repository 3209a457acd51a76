"""Plots of plain text: bars of blocks, or of # where the terminal knows no blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

_EIGHTHS = " ▁▂▃▄▅▆▇█"
FULL, SHADE = "█", "░"


def knows_blocks(encoding: str | None) -> bool:
    """True where the output's encoding has block characters."""
    return (encoding or "ascii").lower().replace("-", "").startswith("utf")


def bar(value: float, most: float, width: int, *, blocks: bool) -> str:
    """A horizontal bar: `width` characters where the value is `most` or more, at least one for more than nothing."""
    if not value > 0 or not most > 0:
        return ""
    length = width if value >= most else max(round(value / most * width), 1)
    return (FULL if blocks else "#") * length


def columns(solid: Sequence[float], above: Sequence[float], width: int, height: int, *, blocks: bool) -> list[str]:
    """Lines, top first, of one column for each pair: `solid` filled, and from there to `above` shaded.

    More pairs than `width` share columns, which show the most of each.
    """
    solid, above = _binned(solid, width), _binned(above, width)
    most = max(above, default=0)
    if not most > 0:
        return []
    full, shade = (FULL, SHADE) if blocks else ("#", ".")
    lines: list[str] = []
    for row in reversed(range(height)):
        cells: list[str] = []
        for low, high in zip(solid, above, strict=True):
            filled, reached = low / most * height - row, math.ceil(high / most * height - 1e-9) - row
            if filled >= 1:
                cells.append(full)
            elif blocks and filled >= 0.125 and high <= low:
                cells.append(_EIGHTHS[int(filled * 8)])
            else:
                cells.append(full if filled >= 0.5 else shade if reached > 0 else " ")
        lines.append("".join(cells).rstrip())
    return lines


def _binned(values: Sequence[float], width: int) -> list[float]:
    if len(values) <= width:
        return list(values)
    edges = [len(values) * place // width for place in range(width + 1)]
    return [max(values[begin:end]) for begin, end in pairwise(edges)]
