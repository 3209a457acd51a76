"""Receipts of resumes as the event log has them: each with what was observed of its course since."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from keepstep.model import Checkpoint
from keepstep.run import Event, receipt_lines

_OBSERVED = ("level", "evidence", "reasons", "course")


def receipts(events: Iterable[Event]) -> list[Event]:
    """All receipts in order, the last one of each resume."""
    found: list[Event] = []
    for event in events:
        take_receipt(found, event)
    return found


def take_receipt(known: list[Event], event: Event) -> None:
    """Add the receipt of a resume, or put into the last one what was observed of its course."""
    if event["event"] == "resumed":
        known.append(event)
    elif event["event"] == "course" and known and known[-1].get("step") == event.get("step"):
        known[-1] = {**known[-1], **{name: event[name] for name in _OBSERVED if name in event}}


def receipt_of(known: Sequence[Event], checkpoint: Checkpoint) -> Event | None:
    """The receipt of the last resume from a checkpoint, told by the name of its directory."""
    for event in reversed(known):
        if event.get("step") == checkpoint.step and str(event.get("path", "")).rstrip("/").endswith(
            f"/{checkpoint.name}"
        ):
            return event
    return None


def told(receipt: Event | None) -> list[str]:
    """A receipt for people, line by line; nothing of one that is not keepstep's."""
    try:
        return [] if receipt is None else receipt_lines(receipt)
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
