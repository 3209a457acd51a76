"""What a run knows and its manifests don't: late metrics, how it came about, pins and tags. It may go elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from keepstep import layout
from keepstep.run.events import late_metrics_of, parse_lines
from keepstep.run.pins import Pins, pins_bytes
from keepstep.run.view import RunView

TRAVELLING = frozenset({"run", "committed", "metrics", "timeline", "restored", "removed", "thinned", "resumed"})
"""Events that say of the run itself what no manifest does. What was verified or quarantined is of one disk's bytes."""


@dataclass(frozen=True, slots=True)
class Notes:
    """Lines of the event log, each one of `TRAVELLING`, and the pins and tags."""

    lines: tuple[bytes, ...] = ()
    pins: Pins = field(default_factory=Pins)

    @property
    def late(self) -> dict[int, dict[str, float]]:
        """Metrics that came after their checkpoint's commit, by generation."""
        return late_metrics_of(parse_lines(list(self.lines)))


def travelling(lines: Iterable[bytes]) -> list[bytes]:
    """Those of some lines of an event log that may go elsewhere."""
    return [line for line in lines if any(event["event"] in TRAVELLING for event in parse_lines([line]))]


def take_over(run: RunView, notes: Notes, arriving: int, *, begins: bool) -> None:
    """Join notes with what a run has: all of them where it `begins` here, else the late metrics that it lacks, and the
    pins and free tags of the checkpoint that is `arriving` and of all that are not here. Of what is here counts what is
    said here. Raises OSError.
    """
    if begins:
        _write(run, notes)
        return
    known = run.events.late_metrics()
    for generation, metrics in notes.late.items():
        lacking = {name: value for name, value in metrics.items() if name not in known.get(generation, {})}
        if lacking:
            run.events.append("metrics", generation=generation, metrics=lacking)
    pins = run.pins
    here = {one.generation for one in (*run.checkpoints, *run.aside)} - {arriving}
    for generation in sorted(notes.pins.pinned - pins.pinned - here):
        run.pin_board.pin(generation)
    for name, generation in sorted(notes.pins.tags.items()):
        if name not in pins.tags and generation not in here:
            run.pin_board.tag(generation, name)


def _write(run: RunView, notes: Notes) -> None:
    """Into a run that another attempt may have begun."""
    store = run.store
    here = set(store.read(layout.EVENTS, limit=2**31).split(b"\n")) if store.exists(layout.EVENTS) else set[bytes]()
    lacking = [line for line in travelling(notes.lines) if line not in here]
    if lacking:
        store.make_directory(layout.META)
        store.append(layout.EVENTS, b"\n" + b"\n".join(lacking) + b"\n", durable=True)
    if notes.pins.held and not store.exists(layout.PINS):
        store.replace(layout.PINS, pins_bytes(notes.pins))
