"""`keepstep events`: the event log, line by line."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import islice
from typing import Any

import click

from keepstep.cli.command import command, format_option, run_argument
from keepstep.cli.drawing import tsv
from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.tables import EMPTY, Span
from keepstep.cli.drawing.text import in_words, shorten
from keepstep.operations.seeing.following import follow as follow_events
from keepstep.operations.seeing.noise import NOISE
from keepstep.run import Event, Evidence, Run, brought_lines, course_line
from keepstep.units import format_duration, format_moment, format_size

STYLES = {
    "committed": "green",
    "removed": "yellow",
    "thinned": "yellow",
    "refused": "bold red",
    "quarantined": "bold red",
    "failed": "bold red",
    "rebuilt": "yellow",
    "repaired": "yellow",
    "restored": "cyan",
    "branched": "cyan",
    "resumed": "cyan",
    "preempted": "yellow",
    "course": "cyan",
    "timeline": "cyan",
    "not_mirrored": "yellow",
    "mirror_skipped": "yellow",
    "mirror_down": "bold red",
    "mirror_lost": "bold red",
    "pinned": "magenta",
    "tagged": "magenta",
}
LONGEST_DETAIL = 200
NARROW = 72
"""Columns below which a terminal has no room for the day."""
COLUMNS = ("time", "event", "step", "generation", "detail")
"""What the format agent prints of every event."""
_HIDDEN = ("time", "event", "step", "generation")


@command(
    "events",
    examples=[
        ("keepstep events runs/sft --limit 20", "the last 20"),
        ("keepstep events runs/sft --follow", "wait for more, until Ctrl-C"),
        ("keepstep events runs/sft --format json | jq 'select(.event == \"removed\")'", "what went, and why"),
    ],
)
@run_argument
@click.option("--follow", is_flag=True, help="Go on and print new events as they come.")
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Begin with the last N events.")
@format_option
def events(run: Run, follow: bool, limit: int | None, output: Output) -> None:
    """Oldest first; with --format json one JSON object a line, with --format agent what happened in words.

    How exact a resume is may be proved (an interrupted attempt had logged values beyond the checkpoint, and they came
    out again, bit for bit), compared (what was in memory equals what was saved), or inferred (from the files' bytes
    and the settings alone).
    """
    if not run.managed:
        output.note("it has no event log: keepstep did not write it")
    if output.is_agent:
        click.echo(tsv.line(COLUMNS))
    for event in _chosen(run, follow, limit):
        if output.is_agent:
            click.echo(tsv.line([*(event.get(name) for name in COLUMNS[:-1]), detail_of(event)]))
        elif output.is_json:
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
    output.entry(*entry_of(event, short=output.width < NARROW))


def entry_of(event: Event, *, short: bool = False) -> tuple[list[Span], list[Span]]:
    """When, what and at which step; and what happened. `short` leaves the day out."""
    name, step = str(event["event"]), event.get("step")
    moment = _moment(event.get("time"))
    head: list[Span] = [(f"{moment[11:19] if short else moment}  ", "dim")]
    head.append((f"{shorten(name, 20):<{10 if short else 12}}", STYLES.get(name, "")))
    if isinstance(step, int):
        head.append(f" {step}  " if short else f"step {step:<7}")
    elif not short:
        head.append(" " * 12)
    return head, [shorten(detail_of(event), LONGEST_DETAIL)]


def _moment(time: Any) -> str:
    try:
        return format_moment(datetime.fromisoformat(str(time)))
    except ValueError:
        return EMPTY if time is None else shorten(str(time), 23)


def detail_of(event: Event) -> str:
    """What happened, in words where the shape is the one that keepstep writes, else field by field."""
    describe = _DETAILS.get(event["event"], _fields)
    try:
        return describe(event)
    except (KeyError, TypeError, ValueError, AttributeError):
        return _fields(event)


def _committed(event: Event) -> str:
    metrics = _metrics(event["metrics"])
    return format_size(event["size_bytes"]) + (f", {metrics}" if metrics else "")


def _kept(event: Event) -> str:
    took = [
        f"{what} {format_duration(float(event[name]))}"
        for name, what in (("blocked_seconds", "held up"), ("durable_seconds", "durable after"))
        if name in event
    ]
    engine = f"{event['engine']} engine" if event.get("engine") else ""
    return _sentence("; ".join(map(str, event["reasons"])), ", ".join([*took, *filter(None, [engine])]))


def _removed(event: Event) -> str:
    run = f"of the previous run {event['previous']}, " if "previous" in event else ""
    return f"{run}{format_size(event['size_bytes'])} freed: {event['reason']}"


def _set_aside(event: Event) -> str:
    size = format_size(event["size_bytes"])
    return f"{event['run_id']} moved to {event['path']}: {event['why']}; steps {in_words(event['steps'])}, {size}"


def _forgotten(event: Event) -> str:
    return f"nothing is left of the previous run {event['previous']}"


def _finished(event: Event) -> str:
    return "the run has come to its end"


def _preempted(event: Event) -> str:
    lost = f"{event['lost_steps']} steps lost, {format_duration(event['lost_seconds'])}" if event["lost_steps"] else ""
    at = event["resumes_at"]
    return _sentence(str(event["why"]), lost, "nothing was saved" if at is None else f"a resume goes on from step {at}")


def _requested(event: Event) -> str:
    return f"{'a save' if event['what'] == 'save' else 'to stop'}, by {event['by']}"


def _answered(event: Event) -> str:
    return f"{'save' if event['what'] == 'save' else 'stop'}: {event['answer']}"


def _thinned(event: Event) -> str:
    left = f"{format_size(event['size_bytes'])} of weights left"
    return f"{left}, {format_size(event['freed_bytes'])} freed: {event['reason']}"


def _verified(event: Event) -> str:
    if not event["ok"]:
        return "damaged: " + "; ".join(map(str, event["problems"]))
    lost = event.get("lost")
    return f"holds weights only: without {in_words(lost)}" if lost else "every byte holds"


def _sealed(event: Event) -> str:
    rewritten = [one["path"] for one in event["rewritten"]]
    changes = (("added", event["added"]), ("rewritten", rewritten), ("removed", event["removed"]))
    by = f"by {in_words(event['by'])}" if event["by"] else ""
    return _sentence(*(f"{what}: {in_words(paths)}" for what, paths in changes if paths), by)


def _quarantined(event: Event) -> str:
    return f"moved to {event['path']}: " + "; ".join(map(str, event["problems"]))


def _resumed(event: Event) -> str:
    checked = "every byte verified" if event["verified"] else "nothing could be verified"
    known = ", ".join(filter(None, (event["level"], event.get("evidence"), checked)))
    reasons = "; ".join(f"{reason['level']}: {reason['text']}" for reason in event["reasons"])
    passed = f"passed over: {in_words(event['passed_over'])}" if event["passed_over"] else ""
    compared = f"compared: {event['compared']}" if event.get("compared") else ""
    brought = "; ".join(brought_lines(event.get("brought")))
    return _sentence(f"{known}, from {event['path']}", brought, reasons, passed, compared)


def _observed(event: Event) -> str:
    course = course_line(event["course"], compared=event["evidence"] == Evidence.COMPARED)
    last = event["reasons"][-1] if event["reasons"] else {"level": event["level"], "text": ""}
    reason = f"{last['level']}: {last['text']}"
    return reason if event["course"]["text"] in reason else _sentence(f"{event['level']}, {course}")


def _skipped(event: Event) -> str:
    return "the disk was busy: " + ("made up for later" if event["made_up"] else "left out")


def _failed(event: Event) -> str:
    return _sentence(str(event["error"]), "written anew" if event.get("retried") else "")


def _refused(event: Event) -> str:
    return f"not saved: {event['error']}"


def _pinned(event: Event) -> str:
    return "no policy removes it"


def _unpinned(event: Event) -> str:
    return _sentence("the policy decides", f"tags dropped: {in_words(event['tags'])}" if event.get("tags") else "")


def _exported(event: Event) -> str:
    kind = str(event["kind"])
    average = f"average of steps {in_words(event['average'])} " if event.get("average") else ""
    return f"{average}as {'an' if kind[:1] in 'aeiou' else 'a'} {kind} to {event['path']}"


def _late(event: Event) -> str:
    return f"generation {event['generation']}: {_metrics(event['metrics'])}"


def _timeline(event: Event) -> str:
    aside = ", ".join(map(str, event["set_aside"]))
    return f"{event['now']} begins; set aside: steps {aside}" if aside else f"{event['now']} begins"


def _restored(event: Event) -> str:
    steps, aside = in_words(event["restored"]), in_words(event["set_aside"])
    if event["came_from"] == "previous":
        return f"run {event['run_id']} is back, steps {steps}; {event['left']} moved to {event['path']}"
    back = f"from {'quarantine' if event['came_from'] == 'quarantined' else 'what was set aside'}: steps {steps}"
    return _sentence(back, f"set aside: steps {aside}" if event["set_aside"] else "")


def _branched(event: Event) -> str:
    if "into_run" in event:
        return f"run {event['into_run']} begins with it in {event['path']}"
    run, generation = event["from_run"], event["from_generation"]
    return f"this run begins with that of {event['path']}" + (f", generation {generation} of run {run}" if run else "")


def _repaired(event: Event) -> str:
    more = [f"{name}: {in_words(event[name])}" for name in ("lost", "kept") if event[name]]
    return _sentence(*map(str, event["what"]), *more)


def _unloaded(event: Event) -> str:
    return f"as the best at the end it did not come back into the model: {event['why']}"


def _began(event: Event) -> str:
    metric = f", ranked by {event['metric']} ({event['mode']})" if event["metric"] else ""
    return f"{event['run_id']} keeps {event['keep']}{metric}"


def _rebuilt(event: Event) -> str:
    lost = ", ".join(map(str, event["lost"]))
    return f"it {event['why']}: taken from {event['checkpoints']} manifests; lost where there were any: {lost}"


def _metrics(metrics: dict[str, Any]) -> str:
    return ", ".join(f"{name} {in_words(value)}" for name, value in metrics.items() if not name.endswith(NOISE))


def _sentence(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _fields(event: Event) -> str:
    shown = ((name, value) for name, value in event.items() if name not in _HIDDEN and value is not None)
    return ", ".join(f"{name} {in_words(value)}" for name, value in shown)


def _mirrored(event: Event) -> str:
    return f"{format_size(event['size_bytes'])} in {event['url']}"


def _unmirrored(event: Event) -> str:
    return f"removed in {event['url']}, {format_size(event['size_bytes'])} freed there"


def _not_mirrored(event: Event) -> str:
    return f"not sent: {event['why']}"


def _mirror_skipped(event: Event) -> str:
    return f"never sent: steps {in_words(event['steps'])}; {event['why']}"


def _mirror_down(event: Event) -> str:
    return f"no answer, it is tried again: {event['why']}"


def _mirror_up(event: Event) -> str:
    return "it answers again"


def _mirror_lost(event: Event) -> str:
    return f"nothing goes there any more: {event['why']}"


def _mirror_ahead(event: Event) -> str:
    return f"{event['url']} has a newer one, of generation {event['generation']}, that did not come"


def _arrived(event: Event) -> str:
    return f"from {event['origin']}"


_DETAILS: dict[str, Callable[[Event], str]] = {
    "committed": _committed,
    "kept": _kept,
    "sealed": _sealed,
    "removed": _removed,
    "thinned": _thinned,
    "verified": _verified,
    "quarantined": _quarantined,
    "resumed": _resumed,
    "course": _observed,
    "skipped": _skipped,
    "failed": _failed,
    "refused": _refused,
    "pinned": _pinned,
    "unpinned": _unpinned,
    "exported": _exported,
    "unloaded": _unloaded,
    "metrics": _late,
    "timeline": _timeline,
    "restored": _restored,
    "repaired": _repaired,
    "branched": _branched,
    "set_aside": _set_aside,
    "forgotten": _forgotten,
    "finished": _finished,
    "preempted": _preempted,
    "requested": _requested,
    "answered": _answered,
    "run": _began,
    "rebuilt": _rebuilt,
    "arrived": _arrived,
    "mirror_ahead": _mirror_ahead,
    "mirrored": _mirrored,
    "unmirrored": _unmirrored,
    "not_mirrored": _not_mirrored,
    "mirror_skipped": _mirror_skipped,
    "mirror_down": _mirror_down,
    "mirror_up": _mirror_up,
    "mirror_lost": _mirror_lost,
}
