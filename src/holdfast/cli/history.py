"""`holdfast events`: the event log, line by line."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import islice
from typing import Any

import click

from holdfast.cli.command import command, format_option, run_argument
from holdfast.cli.render import Output
from holdfast.cli.tables import EMPTY
from holdfast.cli.text import shorten
from holdfast.events import Event
from holdfast.operations.following import follow as follow_events
from holdfast.run import Run
from holdfast.units import format_moment, format_number, format_size

_STYLES = {
    "committed": "green",
    "removed": "yellow",
    "quarantined": "bold red",
    "failed": "bold red",
    "resumed": "cyan",
    "timeline": "cyan",
    "pinned": "magenta",
    "tagged": "magenta",
}
LONGEST_DETAIL = 200
_HIDDEN = ("time", "event", "step", "generation")


@command(
    "events",
    examples=[
        ("holdfast events runs/sft --limit 20", "the last 20"),
        ("holdfast events runs/sft --follow", "wait for more, until Ctrl-C"),
        ("holdfast events runs/sft --format json | jq 'select(.event == \"removed\")'", "what went, and why"),
    ],
)
@run_argument
@click.option("--follow", is_flag=True, help="Go on and print new events as they come.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Begin with the last N events.")
@format_option
def events(run: Run, follow: bool, limit: int | None, output: Output) -> None:
    """Oldest first; with --format json one JSON object a line."""
    for event in _chosen(run, follow, limit):
        if output.is_json:
            output.json_line(event)
        else:
            _print(event, output)
        if follow:
            sys.stdout.flush()


def _chosen(run: Run, follow: bool, limit: int | None) -> Iterable[Event]:
    if not follow:
        return run.events.read() if limit is None else deque(run.events.read(), maxlen=limit)
    skip = 0 if limit is None else max(sum(1 for _ in run.events.read()) - limit, 0)
    return islice(follow_events(run), skip, None)


def _print(event: Event, output: Output) -> None:
    name = str(event["event"])
    step = event.get("step")
    output.line(
        (f"{_moment(event.get('time'))}  ", "dim"),
        (f"{shorten(name, 20):<12}", _STYLES.get(name, "")),
        "" if step is None else f"step {step}  ",
        (shorten(_detail(event), LONGEST_DETAIL), ""),
    )


def _moment(time: Any) -> str:
    try:
        return format_moment(datetime.fromisoformat(str(time)))
    except ValueError:
        return EMPTY if time is None else shorten(str(time), 23)


def _detail(event: Event) -> str:
    """What happened, in words where the shape is the one that holdfast writes, else field by field."""
    describe = _DETAILS.get(event["event"], _fields)
    try:
        return describe(event)
    except (KeyError, TypeError, ValueError, AttributeError):
        return _fields(event)


def _committed(event: Event) -> str:
    metrics = _metrics(event["metrics"])
    return f"{format_size(event['size_bytes'])}" + (f", {metrics}" if metrics else "")


def _removed(event: Event) -> str:
    return f"{format_size(event['size_bytes'])} freed: {event['reason']}"


def _verified(event: Event) -> str:
    return "every byte holds" if event["ok"] else "damaged: " + "; ".join(map(str, event["problems"]))


def _quarantined(event: Event) -> str:
    return f"moved to {event['path']}: " + "; ".join(map(str, event["problems"]))


def _late(event: Event) -> str:
    return f"generation {event['generation']}: {_metrics(event['metrics'])}"


def _timeline(event: Event) -> str:
    aside = ", ".join(map(str, event["set_aside"]))
    return f"{event['now']} begins; set aside: steps {aside}" if aside else f"{event['now']} begins"


def _began(event: Event) -> str:
    metric = f", ranked by {event['metric']} ({event['mode']})" if event["metric"] else ""
    return f"{event['run_id']} keeps {event['keep']}{metric}"


def _metrics(metrics: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in metrics.items())


def _fields(event: Event) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in event.items() if name not in _HIDDEN)


def _value(value: Any) -> str:
    return format_number(value) if isinstance(value, float) else str(value)


_DETAILS: dict[str, Callable[[Event], str]] = {
    "committed": _committed,
    "removed": _removed,
    "verified": _verified,
    "quarantined": _quarantined,
    "metrics": _late,
    "timeline": _timeline,
    "run": _began,
}
