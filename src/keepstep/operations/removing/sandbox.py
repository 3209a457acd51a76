"""Trying a policy: the plan it would carry out now, told apart from the one in force, and carried out as shown."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace

from keepstep.operations.removing.carrying_out import Pruned
from keepstep.operations.removing.pruning import PlanChanged, plan_for, policy_for, prune_as_shown
from keepstep.retention import Decision, Plan, Policy, format_spec
from keepstep.run import Run
from keepstep.units import parse_size


@dataclass(frozen=True, slots=True)
class Proposal:
    """A policy for a run, a budget (bytes), the plan of both; `changes` are generations that the policy in force treats
    otherwise. `digest` names the plan: it differs where any decision does.
    """

    policy: Policy
    budget: int | None
    plan: Plan
    changes: tuple[int, ...]
    digest: str
    run_id: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; sizes in bytes."""
        return {
            "run_id": self.run_id,
            "keep": format_spec(self.policy.rules),
            "budget_bytes": self.budget,
            "rows": [_row(decision) for decision in self.plan.decisions],
            "aside": [_row(decision) for decision in self.plan.aside],
            "kept_bytes": self.plan.kept_bytes,
            "kept_aside_bytes": self.plan.kept_aside_bytes,
            "freed_bytes": self.plan.freed_bytes,
            "fits": self.budget is None or self.plan.kept_bytes + self.plan.kept_aside_bytes <= self.budget,
            "digest": self.digest,
            "changes": list(self.changes),
        }


def propose(run: Run, keep: str | None, budget: str | None) -> Proposal:
    """The plan of a policy (None: the run's own) and a budget such as `200GB` (None: the run's own).

    Raises PolicyError and QuantityError for what can't be understood.
    """
    policy = policy_for(run, keep, None, None)
    limit = run.limits.budget if budget is None else parse_size(budget, "budget")
    plan = plan_for(run, policy, limit)
    in_force = {d.checkpoint.generation: d.outcome for d in plan_for(run, run.policy).decisions}
    changes = tuple(
        d.checkpoint.generation for d in plan.decisions if in_force.get(d.checkpoint.generation) is not d.outcome
    )
    return Proposal(policy, limit, plan, changes, _digest(run, policy, limit, plan), run.id)


def carry_out(run: Run, keep: str | None, budget: str | None, digest: str, *, set_policy: bool) -> Pruned:
    """Do what `propose` showed under that digest; with `set_policy` both are in force until a training sets its own.

    Raises RunLocked while a training runs, PlanChanged when the plan is another by now (nothing is done then), and
    what `prune_as_shown` raises.
    """
    shown = propose(run, keep, budget)
    if shown.digest != digest:
        raise PlanChanged(
            f"{run.path} changed after the plan was shown: nothing was done",
            hint="Look at the new plan, and say so again.",
        )
    done = prune_as_shown(run, shown.policy, shown.plan, budget=shown.budget)
    if set_policy:
        with run.writing():
            run.set_policy(shown.policy, replace(run.limits, budget=shown.budget))
    return done


def _row(decision: Decision) -> dict[str, Any]:
    checkpoint = decision.checkpoint
    return {
        "run_id": checkpoint.run_id,
        "generation": checkpoint.generation,
        "step": checkpoint.step,
        "name": checkpoint.name,
        "state": checkpoint.state.value,
        "size_bytes": checkpoint.size_bytes,
        "left_bytes": decision.kept_bytes,
        "action": decision.outcome.value,
        "reasons": list(decision.reasons),
    }


def _digest(run: Run, policy: Policy, budget: int | None, plan: Plan) -> str:
    decisions = [
        (d.checkpoint.generation, str(d.checkpoint.path), d.outcome.value) for d in (*plan.decisions, *plan.aside)
    ]
    metric = policy.metric
    text = repr((run.id, format_spec(policy.rules), metric and (metric.name, metric.mode), budget, decisions))
    return hashlib.blake2s(text.encode(), digest_size=16).hexdigest()
