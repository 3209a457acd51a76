"""`keepstep ls --tree`: what grew from what, drawn as a tree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.tables import Span
from keepstep.model import State
from keepstep.operations.seeing.growth import Grown, Growth, Offshoot, growth_of
from keepstep.operations.seeing.listing import Row
from keepstep.run import Run
from keepstep.units import format_number

Marks = Callable[[Row], Sequence[Span]]
_LINES = {True: ("├─ ", "╰─ ", "│  "), False: ("|- ", "`- ", "|  ")}
"""What stands before one of several, before the last of them, and before what is inside of one of several."""


@dataclass(frozen=True, slots=True)
class Twig:
    """A line, and what hangs on it."""

    line: tuple[Span, ...]
    inside: list[Twig] = field(default_factory=list["Twig"])


def show_tree(run: Run, output: Output, marks: Marks) -> None:
    """A run with all that grew in it and from it."""
    found = growth_of(run)
    if output.is_json:
        output.json(found.to_json(), rows="checkpoints")
        return
    for number, one in enumerate((found, *_before(found))):
        _show(one, output, marks, previous=number > 0)
    if not found.checkpoints and not found.previous:
        output.note(f"{run.path} has no checkpoint yet")


def _before(growth: Growth) -> Iterator[Growth]:
    for previous in growth.previous:
        yield previous
        yield from _before(previous)


def _show(growth: Growth, output: Output, marks: Marks, *, previous: bool) -> None:
    name: tuple[Span, ...] = (str(growth.path), "bold"), f"  run {growth.run_id}"
    output.line(*((f"previous run {growth.run_id}, in ", "dim"), (str(growth.path), "dim")) if previous else name)
    if growth.origin is not None:
        output.line(("branched off ", "cyan"), str(growth.origin))
    for guides, line in _drawn(_Growing(growth, marks).twigs(), _LINES[output.draws_blocks]):
        output.entry([(guides, "dim")], line)


def _drawn(
    twigs: Sequence[Twig], lines: tuple[str, str, str], before: str = ""
) -> Iterator[tuple[str, tuple[Span, ...]]]:
    one, last, bar = lines
    for number, twig in enumerate(twigs, start=1):
        ends = number == len(twigs)
        yield before + (last if ends else one), twig.line
        yield from _drawn(twig.inside, lines, before + (" " * len(bar) if ends else bar))


class _Growing:
    """Makes twigs of a run: what goes on in a line stands below each other, and what went another way hangs on it."""

    def __init__(self, growth: Growth, marks: Marks) -> None:
        self._growth = growth
        self._marks = marks
        self._below: dict[int | None, list[Grown]] = {}
        for one in growth.checkpoints:
            self._below.setdefault(one.grew_from, []).append(one)
        self._there = {one.row.checkpoint.generation for one in growth.checkpoints}

    def twigs(self) -> list[Twig]:
        """The present course, then what hangs on nothing that is left."""
        found: list[Twig] = []
        for one in self._by_weight(None):
            found += self._course(one) if one.on_course else [self._aside(one)]
        lost = [one for one in self._growth.offshoots if one.generation not in self._there]
        return found + [_branch(one, gone=True) for one in lost]

    def _course(self, start: Grown | None) -> list[Twig]:
        """From a checkpoint on: a twig for each, those beside it inside."""
        found: list[Twig] = []
        while start is not None:
            generation = start.row.checkpoint.generation
            following, *others = self._by_weight(generation) or [None]
            inside = [self._aside(one) for one in others if one is not None]
            if following is not None and start.on_course and not following.on_course:
                inside, following = [self._aside(following), *inside], None
            inside += [_branch(one) for one in self._growth.offshoots if one.generation == generation]
            found.append(Twig(self._line(start.row), inside))
            start = following
        return found

    def _aside(self, start: Grown) -> Twig:
        checkpoint = start.row.checkpoint
        named = "another course" if checkpoint.state is State.COMMITTED else checkpoint.state.value
        return Twig(((f"timeline {checkpoint.timeline}, {named}", "yellow"),), self._course(start))

    def _by_weight(self, generation: int | None) -> list[Grown]:
        """What grew from a generation: that of the present course first, then the newest."""
        found = self._below.get(generation, [])
        return sorted(found, key=lambda one: (not one.on_course, -one.row.checkpoint.generation))

    def _line(self, row: Row) -> tuple[Span, ...]:
        checkpoint, metric = row.checkpoint, self._growth.metric
        value = metric.value(checkpoint.metrics) if metric else None
        style = "dim" if checkpoint.state is not State.COMMITTED else "bold"
        line: list[Span] = [(f"step {checkpoint.step}", style), (f"  generation {checkpoint.generation}", "dim")]
        line += [f"  {metric.name} {format_number(value)}"] if metric and value is not None else []
        for mark in self._marks(row):
            line += ["  ", mark]
        return tuple(line)


def _branch(one: Offshoot, *, gone: bool = False) -> Twig:
    of = f"of step {one.step}, which is gone, " if gone else ""
    return Twig((("branch ", "cyan"), (f"{of}{one}", "dim" if one.checkpoints is None else "")))
