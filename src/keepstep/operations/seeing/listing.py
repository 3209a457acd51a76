"""The list of a run's checkpoints, each with what keeps it, its marks and its state."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from keepstep.model import Checkpoint, State
from keepstep.operations.seeing.mirrored import Mirrored, mirrored_of
from keepstep.repository import Foreign
from keepstep.retention import PINNED, Decision, Metric, Outcome, Plan, Policy, rank
from keepstep.run import Limits, Pins, Run
from keepstep.strict import finite_or_name


class Row(msgspec.Struct, frozen=True, gc=False):
    """One checkpoint as it is listed.

    `keep` and `reasons` are the plan's decision: reasons to keep it, or one sentence why the next prune removes it.
    `thin`: of what is kept, the next prune leaves the weights alone. `verified`: when every byte last held, None of one
    that was never checked since its commit, or did not hold.
    """

    checkpoint: Checkpoint
    keep: bool
    reasons: tuple[str, ...]
    state: str
    pinned: bool
    tags: tuple[str, ...]
    best: bool
    newest: bool
    thin: bool = False
    verified: datetime | None = None
    place: str = ""
    """Where its files lie, for one that is on no disk here."""

    @property
    def outcome(self) -> Outcome:
        """What the next prune does with it."""
        if not self.keep:
            return Outcome.REMOVE
        return Outcome.THIN if self.thin else Outcome.KEEP

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines: sizes in bytes, times in ISO 8601 UTC, non-finite metrics as strings."""
        checkpoint = self.checkpoint
        return {
            "step": checkpoint.step,
            "epoch": checkpoint.epoch,
            "generation": checkpoint.generation,
            "timeline": checkpoint.timeline,
            "parent": checkpoint.parent,
            "kind": checkpoint.kind.value,
            "metrics": {name: finite_or_name(value) for name, value in checkpoint.metrics.items()},
            "action": self.outcome.value,
            "kept_because": list(self.reasons) if self.keep else [],
            "pinned": self.pinned,
            "tags": list(self.tags),
            "size_bytes": checkpoint.size_bytes,
            "created": checkpoint.created.astimezone(UTC).isoformat(),
            "state": self.state,
            "verified": None if self.verified is None else self.verified.astimezone(UTC).isoformat(),
            "path": self.place or (None if checkpoint.path is None else str(checkpoint.path)),
        }


class Listing(msgspec.Struct, frozen=True):
    """Rows by generation, the plan, the policy and the limits behind them, and directories that are none of the run's.

    What a budget counts is `plan.taken_bytes`.
    """

    rows: tuple[Row, ...]
    plan: Plan
    policy: Policy
    foreign: tuple[Foreign, ...]
    limits: Limits = msgspec.field(default_factory=Limits)
    mirror: Mirrored | None = None

    @property
    def metric(self) -> Metric | None:
        """The metric that ranks, None when the run has none."""
        return self.policy.metric

    @property
    def size_bytes(self) -> int:
        """Bytes of all rows."""
        return sum(row.checkpoint.size_bytes for row in self.rows)


def list_checkpoints(run: Run, *, aside: bool = False) -> Listing:
    """The committed checkpoints of a run; with `aside` also those set aside by a rewind, quarantined ones, and, before
    all others, those of previous runs.
    """
    policy, found = run.policy, run.listing()
    plan = run.plan(checkpoints=found.checkpoints)
    rows = rows_of(run, plan, policy.metric)
    if aside:
        rows += _rows_aside(run, plan)
        rows.sort(key=lambda row: (row.checkpoint.state is not State.PREVIOUS, row.checkpoint.generation))
    mirror = mirrored_of(run, found.checkpoints, alive=run.lock.in_use)
    return Listing(tuple(rows), plan, policy, found.foreign, run.limits, mirror)


def rows_of(run: Run, plan: Plan, metric: Metric | None) -> list[Row]:
    """A row for every decision of a plan."""
    pins, verified = run.pins, run.events.verified()
    everything = [decision.checkpoint for decision in plan.decisions]
    best = _first_generation(rank(everything, metric) if metric else ())
    newest = _first_generation(reversed(everything))
    rows: list[Row] = []
    for decision in plan.decisions:
        checkpoint = decision.checkpoint
        generation = checkpoint.generation
        rows.append(
            Row(
                checkpoint,
                keep=decision.stays,
                reasons=decision.reasons,
                state=run.word_for(checkpoint),
                pinned=generation in pins.pinned,
                tags=pins.names(generation),
                best=generation == best,
                newest=generation == newest,
                thin=decision.outcome is Outcome.THIN,
                verified=verified.get(generation),
                place=run.place_of(checkpoint) if run.remote else "",
            )
        )
    return rows


def _rows_aside(run: Run, plan: Plan) -> list[Row]:
    return [_row_aside(decision, run.pins) for decision in plan.aside]


def _row_aside(decision: Decision, pins: Pins) -> Row:
    checkpoint = decision.checkpoint
    before = checkpoint.state is State.PREVIOUS  # its generations and its pins are those of its own run
    return Row(
        checkpoint,
        keep=decision.stays,
        reasons=decision.reasons,
        state=checkpoint.state.value,
        pinned=PINNED in decision.reasons if before else checkpoint.generation in pins.pinned,
        tags=() if before else pins.names(checkpoint.generation),
        best=False,
        newest=False,
    )


def _first_generation(checkpoints: Iterable[Checkpoint]) -> int | None:
    return next((checkpoint.generation for checkpoint in checkpoints), None)
