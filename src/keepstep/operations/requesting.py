"""What is asked of a training that runs, from another process: to save now, to stop; and what it answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from keepstep import layout
from keepstep.errors import NobodyTrains, NotAnswered
from keepstep.operations.seeing.overview import is_training
from keepstep.run import Event, Request, Requests, Run, Tail, Wish, parse_lines
from keepstep.units import format_duration

POLL_SECONDS = 0.2


def ask(run: Run, what: Wish) -> Request:
    """Leave a request for the training of a run. Raises NobodyTrains, NotManaged, OSError."""
    run.must_be_managed()
    if not is_training(run):
        raise NobodyTrains(
            f"nobody trains in {run.path}: there is nobody to ask",
            hint=f"keepstep status {run.path} says how it ended.",
        )
    return Requests(run.store).ask(what)


def answers(
    run: Run, request: Request, patience: float, *, wait: Callable[[float], None] = time.sleep
) -> Iterator[Event]:
    """What becomes of a request: `requested` once it is seen, at last `answered`.

    After `patience` seconds it is taken back. Raises NotAnswered then, and when the training is gone without an answer.
    """
    tail, began, seen = Tail(run.store, layout.EVENTS), time.monotonic(), False
    while True:
        alive = is_training(run)  # before the look: what it answered as it ended must not be missed
        for lines in tail.read().lines:
            for event in parse_lines(lines):
                if event.get("id") != request.id or event["event"] not in ("requested", "answered"):
                    continue
                seen = True
                yield event
                if event["event"] == "answered":
                    return
        if not alive:
            Requests(run.store).withdraw(request)
            raise NotAnswered(f"the training in {run.path} is gone, and has not answered")
        if time.monotonic() - began > patience:
            Requests(run.store).withdraw(request)
            what = "has seen it, and not answered" if seen else "has not come to the end of a step"
            raise NotAnswered(
                f"the training in {run.path} {what} for {format_duration(patience)}",
                hint="Its steps, or its saves, take longer: ask with a longer --timeout, or look: keepstep status.",
            )
        wait(POLL_SECONDS)
