"""Pruning that a person agreed to: the plan carried out is the plan that was shown, and what it leaves holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from keepstep.errors import CheckpointCorrupt, KeepstepError, PolicyError
from keepstep.model import Checkpoint, State
from keepstep.operations.checking import note
from keepstep.operations.removing.alone import alone_in
from keepstep.operations.removing.carrying_out import Pruned, apply_plan
from keepstep.repository import OnBytes
from keepstep.retention import Metric, Mode, Outcome, Plan, Policy, fit, parse, without_aside
from keepstep.run import Run
from keepstep.units import format_size


class PlanChanged(KeepstepError):
    """The run changed between showing a plan and carrying it out."""

    code = "plan-changed"


class Bound(NamedTuple):
    """Bytes that the checkpoints of a run may take, and why no more, as the beginning of a reason."""

    bytes: int
    why: str


def policy_for(run: Run, keep: str | None, metric: str | None, mode: Mode | None) -> Policy:
    """The run's own policy, with rules and metric replaced where they are given.

    Raises PolicyError, also for a metric that no checkpoint has: by that nothing could be ranked.
    """
    own = run.policy
    ranked_by = own.metric if metric is None else Metric.of(metric, mode)
    policy = Policy(own.rules if keep is None else parse(keep), ranked_by)
    if metric is not None and ranked_by is not None:
        known = [checkpoint.metrics for checkpoint in run.checkpoints]
        if known and all(ranked_by.value(metrics) is None for metrics in known):
            names = sorted({name for metrics in known for name in metrics})
            there = f"There is {', '.join(names)}." if names else "They have no metrics at all."
            raise PolicyError(f"no checkpoint of {run.path} has a value of {metric}", hint=there)
    return policy


def plan_for(
    run: Run,
    policy: Policy,
    budget: int | None = None,
    *,
    drop: Iterable[State] = (),
    within: Bound | None = None,
) -> Plan:
    """What the policy keeps, thins and removes, and what is given up to stay within a budget (bytes): the run's own
    unless one is given, and `within` what others leave it. `drop` are states in which nothing that lies aside stays,
    unless it is pinned. What stays while others go has all its files, in their sizes.
    """
    limit = run.limits.budget if budget is None else budget
    bounds = [] if limit is None else [Bound(limit, f"over the budget of {format_size(limit)}")]
    bounds += [] if within is None else [within]

    def plan(*, checkpoints: tuple[Checkpoint, ...]) -> Plan:
        found = without_aside(run.plan(policy, checkpoints=checkpoints), drop, "asked for")
        for bound in bounds:
            found = fit(found, bound.bytes, policy.metric, why=bound.why)
        return found

    return run.settled(plan)


def prune_as_shown(
    run: Run,
    policy: Policy,
    shown: Plan,
    *,
    budget: int | None = None,
    drop: Iterable[State] = (),
    within: Bound | None = None,
    on_bytes: OnBytes | None = None,
    on_done: Callable[[Checkpoint], None] | None = None,
) -> Pruned:
    """Take the run's lock and carry out `shown`, after a check of the recovery point that it leaves.

    Raises RunLocked, PlanChanged when the plan is another one by now, CheckpointCorrupt when the newest
    resumable checkpoint does not hold; nothing is removed then.
    """
    with alone_in(run, "a prune"):
        plan = plan_for(run, policy, budget, drop=drop, within=within)
        if not same_decisions(plan, shown):
            raise PlanChanged(
                f"{run.path} changed after the plan was shown: nothing was removed", hint="Run it again to see it anew."
            )
        if plan.changes:
            check_recovery_point(run, plan, on_bytes)
        return apply_plan(run, plan, on_done)


def same_decisions(one: Plan, other: Plan) -> bool:
    """True when both keep, thin and remove the same checkpoints; reasons and late metrics don't matter."""
    return _outcomes(one) == _outcomes(other)


def _outcomes(plan: Plan) -> list[tuple[int, Path | None, Outcome]]:
    decisions = [(d.checkpoint.generation, None, d.outcome) for d in plan.decisions]
    return [*decisions, *((d.checkpoint.generation, d.checkpoint.path, d.outcome) for d in plan.aside)]


def check_recovery_point(run: Run, plan: Plan, on_bytes: OnBytes | None) -> None:
    """Something to resume from must be left: the newest resumable checkpoint that is kept, known to hold."""
    kept = [checkpoint for checkpoint in plan.keep if checkpoint.resumable and not checkpoint.damage]
    if not kept:
        return
    verification = run.verify(kept[-1], on_bytes)
    note(run, verification)
    if verification.resumable:
        return
    if verification.ok:
        raise CheckpointCorrupt(
            f"the recovery point that would be left is none: {verification.summary()}. Nothing was removed",
            hint="Run it again: another one is the recovery point now.",
        )
    raise CheckpointCorrupt(
        f"the recovery point that would be left is damaged: {verification.summary()}. Nothing was removed",
        hint=f"Move it aside first: keepstep verify {run.path} --quarantine\n  {verification.way_out()}",
    )
