"""A plan that must fit into less room than it takes: what is given up first, and what never."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from keepstep.model import Checkpoint, State
from keepstep.retention.metrics import Metric
from keepstep.retention.plan import Decision, Outcome, Plan
from keepstep.retention.rules import Hold, rank

Measure = Callable[[Checkpoint], int]
"""What a checkpoint takes of what is short."""


def size(checkpoint: Checkpoint) -> int:
    """Bytes of its files."""
    return checkpoint.size_bytes


def entries(checkpoint: Checkpoint) -> int:
    """Inodes: its files, the manifest, and the directories."""
    directories = {file.path.rpartition("/")[0] for file in checkpoint.files}
    return len(checkpoint.files) + 1 + len(directories | {""})


class _Step(NamedTuple):
    """One thing to give up: the decision it changes, what becomes of that, and what was given up, in words."""

    decision: Decision
    outcome: Outcome
    what: str


def fit(
    plan: Plan, limit: int, metric: Metric | None, *, why: str, measure: Measure = size, may_thin: bool = True
) -> Plan:
    """The plan with as much given up, in a fixed order, as it takes to keep no more than `limit`.

    First go previous runs, then what a rewind set aside, then what is in quarantine, of each the oldest first. Then the
    oldest of what is kept because there is room, what is known to be damaged before all else. Then what is kept for
    quality only is thinned, the oldest first; then go of these what waits for its evaluation, and the lowest-ranked,
    the oldest milestones, the oldest of the rest. Never given up are the newest that can be resumed from, what is
    pinned or protected, and the weights of the best: the plan may take more than `limit` in the end. A larger limit
    never keeps less. `why` begins the reason of each step. With `may_thin=False` nothing is thinned: that needs a
    little room.
    """
    whole = {d.checkpoint.generation: d if may_thin else _whole(d) for d in plan.decisions}
    over = sum(_measured(decision, measure) for decision in (*whole.values(), *plan.aside)) - limit
    aside: list[Decision] = []
    for decision in plan.aside:
        goes = over > 0 and decision.stays and decision.hold is not Hold.LAW
        over -= _measured(decision, measure) if goes else 0
        aside.append(_given_up(_Step(decision, Outcome.REMOVE, _lying(decision.checkpoint)), why) if goes else decision)
    for step in _steps(Plan(tuple(whole.values())), metric, may_thin):
        if over <= 0:
            break
        generation = step.decision.checkpoint.generation
        over -= _measured(whole[generation], measure)
        whole[generation] = _given_up(step, why)
        over += _measured(whole[generation], measure)
    return Plan(tuple(whole.values()), tuple(aside))


_ASIDE = {
    State.PREVIOUS: "the oldest of what a fresh start set aside",
    State.SET_ASIDE: "the oldest that a rewind set aside",
    State.QUARANTINED: "the oldest in quarantine, found damaged",
}


def _lying(checkpoint: Checkpoint) -> str:
    run = f", of the previous run {checkpoint.run_id}" if checkpoint.state is State.PREVIOUS else ""
    return _ASIDE[checkpoint.state] + run


def _steps(plan: Plan, metric: Metric | None, may_thin: bool) -> Iterator[_Step]:
    """Everything that can be given up, in order; it depends on nothing but the plan."""
    may_go = [d for d in plan.decisions if d.stays]
    ranked = rank((d.checkpoint for d in plan.decisions if d.stays), metric) if metric else ()
    places = {checkpoint.generation: place for place, checkpoint in enumerate(ranked, start=1)}

    def place(decision: Decision) -> int:
        return places.get(decision.checkpoint.generation, len(places) + 2)

    by_hold = {hold: [d for d in may_go if d.hold is hold] for hold in Hold}
    quality = by_hold[Hold.QUALITY]
    room = sorted(by_hold[Hold.ROOM], key=lambda d: not d.checkpoint.damage)
    yield from (_Step(d, Outcome.REMOVE, _roomy(d.checkpoint)) for d in room if place(d) > 1)
    if may_thin:
        yield from (_Step(d, Outcome.THIN, "thinned, kept for quality only") for d in quality if _can_thin(d))
    in_turn = [
        *((d, _quality(d, places)) for d in sorted(quality, key=place, reverse=True)),
        *((d, "the oldest milestone") for d in by_hold[Hold.MILESTONE]),
        *((d, "the oldest of the latest") for d in by_hold[Hold.RECOVERY]),
        *((d, _roomy(d.checkpoint)) for d in room if place(d) == 1),
    ]
    for decision, what in in_turn:
        if place(decision) > 1:
            yield _Step(decision, Outcome.REMOVE, what)
        elif may_thin and _can_thin(decision) and decision.hold is not Hold.QUALITY:
            yield _Step(decision, Outcome.THIN, f"{what}, thinned: its weights are the best")


def _quality(decision: Decision, places: Mapping[int, int]) -> str:
    ranked = decision.checkpoint.generation in places
    return "the lowest-ranked of the best" if ranked else "the oldest that waits for its evaluation"


def _roomy(checkpoint: Checkpoint) -> str:
    return "the oldest that is damaged" if checkpoint.damage else "the oldest that no other rule keeps"


def _can_thin(decision: Decision) -> bool:
    return decision.outcome is Outcome.KEEP and decision.checkpoint.thinnable


def _whole(decision: Decision) -> Decision:
    return replace(decision, outcome=Outcome.KEEP) if decision.outcome is Outcome.THIN else decision


def _measured(decision: Decision, measure: Measure) -> int:
    return measure(left) if (left := decision.left) else 0


def _given_up(step: _Step, why: str) -> Decision:
    text = f"{why}: {step.what}"
    if step.outcome is Outcome.THIN:
        return replace(step.decision, outcome=Outcome.THIN, reasons=(text, *step.decision.reasons))
    return replace(step.decision, outcome=Outcome.REMOVE, reasons=(text,), hold=Hold.NOT)
