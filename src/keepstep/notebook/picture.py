"""A curve with the checkpoints on it, as an SVG that takes the text's colour."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from keepstep.cli.drawing.text import clean
from keepstep.units import format_number

Kind = Literal["best", "kept", "thinned", "removed"]
WIDTH, HEIGHT = 720, 180
LEFT, RIGHT, TOP, BOTTOM = 76, 14, 14, 26
_LARGEST = 1e300
_SHAPES: dict[Kind, str] = {
    "best": '<path d="M0-8 2.3-2.6 8-2.5 3.6 1.1 5 6.7 0 3.5-5 6.7-3.6 1.1-8-2.5-2.3-2.6Z" fill="#2e9e5b"/>',
    "kept": '<circle r="4.5" fill="currentColor"/>',
    "thinned": '<path d="M0-5.5 5.5 0 0 5.5-5.5 0Z" fill="#3f83c8"/>',
    "removed": '<circle r="3.5" fill="none" stroke="currentColor" stroke-opacity=".55"/>',
}
_WORDS: dict[Kind, str] = {
    "best": "best", "kept": "kept", "thinned": "weights only", "removed": "removed or set aside",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mark:
    """A checkpoint's place on the curve: what became of it, and a sentence for who points at it."""

    step: int
    kind: Kind
    text: str


def draw(name: str, curve: Sequence[tuple[int, float]], marks: Sequence[Mark]) -> str:
    """The SVG; empty for fewer than two values that can be drawn."""
    points = [(step, value) for step, value in curve if abs(value) <= _LARGEST]
    if len(points) < 2:
        return ""
    steps, values = [step for step, _ in points], [value for _, value in points]
    first, last = min([steps[0], *(m.step for m in marks)]), max([steps[-1], *(m.step for m in marks)])
    low, high = min(values), max(values)

    def place(step: int, value: float) -> tuple[float, float]:
        x = LEFT + (step - first) / max(last - first, 1) * (WIDTH - LEFT - RIGHT)
        part = (value - low) / (high - low) if high > low else 0.5
        return round(x, 1), round(TOP + (1 - part) * (HEIGHT - TOP - BOTTOM), 1)

    line = " ".join("{},{}".format(*place(step, value)) for step, value in points)
    found = [(mark, place(mark.step, _value_at(mark.step, steps, values))) for mark in marks]
    shown: list[Kind] = [kind for kind in _SHAPES if any(mark.kind == kind for mark in marks)]
    title = escape(clean(f"{name} by step, with {len(marks)} checkpoints"))
    return "".join(
        (
            f'<svg role="img" aria-label="{title}" viewBox="0 0 {WIDTH} {HEIGHT + 22}" ',
            'style="max-width:52em;width:100%;height:auto;color:inherit;font:12px sans-serif">',
            *_axes(first, last, low, high),
            f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-opacity=".75" stroke-width="1.5"/>',
            *(_mark(mark, *where) for mark, where in found if mark.kind != "best"),
            *(_mark(mark, *where) for mark, where in found if mark.kind == "best"),
            *_legend(name, shown),
            "</svg>",
        )
    )


def _value_at(step: int, steps: Sequence[int], values: Sequence[float]) -> float:
    """The curve's value at a step, on the straight line between its neighbours."""
    at = bisect_left(steps, step)
    if at == len(steps):
        return values[-1]
    if steps[at] == step or at == 0:
        return values[at]
    part = (step - steps[at - 1]) / (steps[at] - steps[at - 1])
    return values[at - 1] + part * (values[at] - values[at - 1])


def _axes(first: int, last: int, low: float, high: float) -> Iterator[str]:
    base = HEIGHT - BOTTOM
    yield f'<path d="M{LEFT} {base}H{WIDTH - RIGHT}" stroke="currentColor" stroke-opacity=".3"/>'
    yield _text(LEFT - 8, TOP + 4, "end", format_number(high))
    if high > low:
        yield _text(LEFT - 8, base, "end", format_number(low))
    yield _text(LEFT, base + 16, "start", f"step {first:,}")
    yield _text(WIDTH - RIGHT, base + 16, "end", f"{last:,}")


def _mark(mark: Mark, x: float, y: float) -> str:
    text = escape(clean(mark.text))
    return f'<g transform="translate({x} {y})"><title>{text}</title>{_SHAPES[mark.kind]}</g>'


def _legend(name: str, kinds: Sequence[Kind]) -> Iterator[str]:
    y, x = HEIGHT + 8, LEFT
    yield _text(x, y + 4, "start", name, weight="bold")
    x += 8 * len(clean(name)) + 24
    for kind in kinds:
        yield f'<g transform="translate({x} {y})">{_SHAPES[kind]}</g>'
        yield _text(x + 12, y + 4, "start", _WORDS[kind])
        x += 7 * len(_WORDS[kind]) + 40


def _text(x: float, y: float, anchor: str, text: str, weight: str = "normal") -> str:
    return (
        f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-weight="{weight}" fill="currentColor">'
        f"{escape(clean(text))}</text>"
    )
