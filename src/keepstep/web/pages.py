"""What the page's views show of a run, as plain values: the operations' results put together."""

from __future__ import annotations

from typing import Any

from keepstep.model import Checkpoint
from keepstep.operations.seeing.certainty import how_sure
from keepstep.operations.seeing.chronicle import Past
from keepstep.operations.seeing.curves import Curves
from keepstep.operations.seeing.listing import Row, list_checkpoints
from keepstep.operations.seeing.overview import (
    Course,
    in_flight,
    next_save,
    overview,
    stalls,
)
from keepstep.retention import Policy, format_spec, rank
from keepstep.run import Run
from keepstep.web.prospects import flaws_of, resume_of
from keepstep.web.view import Opened, RunView

CURVE_POINTS = 800
"""Points of a curve when nobody says how many."""


def row(view: RunView, opened: Opened) -> dict[str, Any]:
    """One line of the list of runs."""
    checkpoints = opened.run.checkpoints
    figures = overview(opened.run, checkpoints, course_of(opened)).to_json()
    return _row(view, figures, opened) | {"findings": opened.findings(checkpoints)}


def broken_row(view: RunView, message: str) -> dict[str, Any]:
    """The line of a run that can't be read."""
    empty = dict.fromkeys(("step", "max_steps", "metric", "best", "latest", "free_bytes", "last_commit"))
    return _row(view, {"state": "damaged", **empty, "checkpoints": 0, "size_bytes": 0}) | {"problem": message}


def summary(view: RunView, opened: Opened) -> dict[str, Any]:
    """A run in full: its figures, every checkpoint, what went, the attempts, the save in flight.

    What doctor finds is left to the view of its health: it takes as long as all the rest.
    """
    run, past = opened.run, opened.chronicle.read()
    listing = list_checkpoints(run)
    checkpoints = [item.checkpoint for item in listing.rows]
    course = course_of(opened)
    figures = overview(run, checkpoints, course)
    aside, room = (*run.aside, *run.previous), run.store.room()
    flying = in_flight(run)
    due = next_save(checkpoints, past, course) if figures.activity.value == "training" else None
    cost = stalls(past)
    return _row(view, figures.to_json(), opened) | {
        "certainty": _certainty(opened, checkpoints),
        "resume": resume_of(run, checkpoints),
        "oddities": list(run.oddities()),
        "policy": policy_json(listing.policy),
        "next_save": due.to_json() if due else None,
        "in_flight": flying.to_json() if flying else None,
        "durability_lag_s": past.stalls[-1].durable if past.stalls else None,
        "stalls": cost.to_json() if cost else None,
        "attempts": curves_of(opened).to_json()["attempts"],
        "timelines": _timelines(past, listing.rows),
        "checkpoints": [checkpoint_json(run, item) for item in listing.rows],
        "removed": [gone.to_json() for gone in past.gone],
        "receipt": past.receipts[-1] if past.receipts else None,
        "mirror": listing.mirror.to_json() if listing.mirror else None,
        "foreign": [{"name": foreign.path.name, "reason": foreign.reason} for foreign in listing.foreign],
        "disk": {
            "kept_bytes": figures.size_bytes,
            "aside_bytes": sum(checkpoint.size_bytes for checkpoint in aside),
            "free_bytes": room.free_bytes,
            "total_bytes": room.total_bytes,
        },
    }


def _certainty(opened: Opened, checkpoints: list[Checkpoint]) -> dict[str, Any] | None:
    metric = opened.run.policy.metric
    sure = how_sure(opened.run, rank(checkpoints, metric), opened.curves) if metric else None
    return sure.to_json() if sure else None


def curves(
    opened: Opened, names: tuple[str, ...] | None, start: int | None, stop: int | None, points: int
) -> dict[str, Any]:
    """The metrics that were logged, in so many points a curve."""
    return opened.curves.curves(names=names, start=start, stop=stop, points=points).to_json()


def checkpoint_json(run: Run, item: Row) -> dict[str, Any]:
    """A checkpoint as it is drawn and listed."""
    more = {"best": item.best, "newest": item.newest, "name": item.checkpoint.name}
    return item.to_json() | more | flaws_of(run, item.checkpoint)


def policy_json(policy: Policy) -> dict[str, Any]:
    """A policy as a spec and as a sentence."""
    metric = policy.metric
    return {
        "keep": format_spec(policy.rules),
        "metric": metric.name if metric else None,
        "mode": metric.mode if metric else None,
        "text": policy.describe(),
    }


def _row(view: RunView, figures: dict[str, Any], opened: Opened | None = None) -> dict[str, Any]:
    place = {"key": view.key, "name": view.name, "path": str(view.path)}
    budget = opened.run.limits.budget if opened else None
    managed = opened.run.managed if opened else True
    return place | figures | {"managed": managed, "budget_bytes": budget, "findings": None, "problem": None}


def _timelines(past: Past, rows: tuple[Row, ...]) -> list[dict[str, Any]]:
    """Each timeline with the generation that it began from and the steps that were committed on it."""
    steps = {number: set(found) for number, found in past.steps.items()}
    for item in rows:
        # An event log that is gone leaves the manifests.
        steps.setdefault(item.checkpoint.timeline, set()).add(item.checkpoint.step)
    return [
        {"number": number, "from_generation": past.rewinds.get(number), "steps": sorted(found)}
        for number, found in sorted(steps.items())
    ]


def curves_of(opened: Opened) -> Curves:
    """The attempts and the range of steps, without any values."""
    return opened.curves.curves(names=(), points=2)


def course_of(opened: Opened) -> Course:
    """How far the training came."""
    return Course.of(curves_of(opened))
