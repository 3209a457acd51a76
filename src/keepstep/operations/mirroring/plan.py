"""What a mirror lacks of a run, and what its policy keeps there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from msgspec.structs import replace

from keepstep.mirror import Mirror, Record
from keepstep.model import Checkpoint, State
from keepstep.retention import Decision, Outcome, Plan, Policy, make_plan
from keepstep.run import Run


@dataclass(frozen=True, slots=True)
class MirrorPlan:
    """`push` is what goes up, newest first, thinned where only its weights are kept; `plan` decides on everything that
    is there or goes there; `drop` and `thin` are records that the policy takes, `left_behind` those of a course that a
    rewind has left; `there` are records of what the run has committed.
    """

    push: tuple[Decision, ...]
    plan: Plan
    drop: tuple[Record, ...]
    thin: tuple[Record, ...]
    left_behind: tuple[Record, ...]
    there: tuple[Record, ...]

    @property
    def push_bytes(self) -> int:
        """Bytes that go up."""
        return sum(decision.kept_bytes for decision in self.push)

    @property
    def wanted(self) -> dict[int, int]:
        """By generation the bytes that go there of each that the policy decided on, 0 of one that it has, or drops."""
        going = {decision.checkpoint.generation: decision.kept_bytes for decision in self.push}
        return {d.checkpoint.generation: going.get(d.checkpoint.generation, 0) for d in self.plan.decisions}


def plan_mirror(
    run: Run | None,
    mirror: Mirror,
    records: tuple[Record, ...],
    policy: Policy,
    *,
    late: Mapping[int, Mapping[str, float]] | None = None,
    pinned: Iterable[int] = (),
    evaluated_later: bool = False,
) -> MirrorPlan:
    """What `policy` wants in the mirror of what `run` has (None: nobody is asked) and of what is there already.

    Without a run `late` are the metrics that came after their commits, by generation, `pinned` is what stays, and
    `evaluated_later` says that a value may still come. A commit of the same number that is another one than the run's
    (of a course that went on elsewhere) is not there: the run's goes there, and counts from then on.
    """
    late = late or {}
    here = {} if run is None else {c.generation: c for c in run.checkpoints if not c.damage and not c.lost}
    aside = (
        frozenset[int]() if run is None else frozenset(c.generation for c in run.aside if c.state is State.SET_ASIDE)
    )
    left_behind = tuple(record for record in records if record.name.generation in aside)
    there = {
        record.name.generation: record
        for record in records
        if record.name.generation not in aside and _is_same(record, here.get(record.name.generation))
    }
    everything = {**here, **{g: _as_there(record, here.get(g), late.get(g, {})) for g, record in there.items()}}
    plan = make_plan(
        everything.values(),
        policy,
        now=datetime.now(UTC),
        pinned=run.pins.held if run is not None else pinned,
        evaluated_later=evaluated_later if run is None else run.evaluated_later(policy.metric),
    )
    push = [decision for decision in plan.decisions if decision.stays and decision.checkpoint.generation not in there]
    decided = {decision.checkpoint.generation: decision.outcome for decision in plan.decisions}
    return MirrorPlan(
        tuple(sorted(push, key=lambda decision: -decision.checkpoint.generation)),
        plan,
        tuple(record for g, record in there.items() if decided[g] is Outcome.REMOVE),
        tuple(record for g, record in there.items() if decided[g] is Outcome.THIN and record.checkpoint.thinnable),
        left_behind,
        tuple(there.values()),
    )


def _is_same(record: Record, here: Checkpoint | None) -> bool:
    """True where the mirror has the commit that is here, or one that nothing here stands against."""
    there = record.checkpoint
    return here is None or (there.created, there.step) == (here.created, here.step)


def _as_there(record: Record, here: Checkpoint | None, late: Mapping[str, float]) -> Checkpoint:
    """What is in the mirror, with metrics that came after its commit and are known here."""
    found = replace(record.checkpoint, path=None, state=State.COMMITTED)
    return found.with_metrics(late if here is None else here.metrics)
