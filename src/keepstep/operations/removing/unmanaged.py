"""Removing and thinning checkpoints that others wrote: only after a person typed the directory's name."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from keepstep.errors import KeepstepError
from keepstep.model import FULL_PREFIX, WEIGHTS_PREFIX, Checkpoint, Role, role_of
from keepstep.operations.removing.carrying_out import Pruned
from keepstep.operations.removing.pruning import Bound, PlanChanged, check_recovery_point, plan_for, same_decisions
from keepstep.operations.removing.thinning import Thinned, ThinRefused, check_thinnable
from keepstep.repository import OnBytes
from keepstep.retention import Plan, Policy
from keepstep.run import Reference, Run, open_run
from keepstep.stores import LocalStore

ALIVE_SECONDS = 600.0
"""Where something was saved so short a time ago a training may be at work: nobody can ask a stock one."""


class MayBeTraining(KeepstepError):
    """A training that can't be asked may be at work in the directory."""

    code = "may-be-training"


def refuse_while_alive(run: Run) -> None:
    """Raises MayBeTraining where the newest checkpoint is so young that its training may go on."""
    newest = max((checkpoint.created for checkpoint in run.checkpoints), default=None)
    age = (datetime.now(UTC) - newest).total_seconds() if newest else ALIVE_SECONDS
    if age < ALIVE_SECONDS:
        raise MayBeTraining(
            f"{run.path} was saved into {age:.0f} s ago: a training may be at work there, and can't be asked",
            hint=f"Wait until nothing was saved for {ALIVE_SECONDS / 60:.0f} minutes, or adopt the run.",
        )


def prune_unmanaged(
    run: Run,
    policy: Policy,
    shown: Plan,
    *,
    budget: int | None = None,
    within: Bound | None = None,
    on_bytes: OnBytes | None = None,
    on_done: Callable[[Checkpoint], None] | None = None,
) -> Pruned:
    """Carry out what was shown of a run that is not managed; what the plan thins stays whole.

    Raises PlanChanged where the directory is another one by now, CheckpointCorrupt where the recovery point that would
    be left is torn, MayBeTraining; nothing is removed then.
    """
    refuse_while_alive(run)
    now = open_run(run.path)
    plan = plan_for(now, policy, budget, within=within)
    if now.managed or not same_decisions(plan, shown):
        raise PlanChanged(
            f"{run.path} changed after the plan was shown: nothing was removed", hint="Run it again to see it anew."
        )
    if plan.changes:
        check_recovery_point(now, plan, on_bytes)
    store = LocalStore(run.path)
    removed: list[Checkpoint] = []
    for decision in plan.decisions:
        if not decision.stays and now.repository.stands(decision.checkpoint):
            _take_away(store, now.repository.key(decision.checkpoint))
            removed.append(decision.checkpoint)
            if on_done is not None:
                on_done(decision.checkpoint)
    return Pruned(tuple(removed), (), not_thinned=plan.thin)


def thin_unmanaged(run: Run, reference: Reference, on_bytes: OnBytes | None = None) -> Thinned:
    """Leave the weights of one checkpoint of a run that is not managed: `checkpoint-N` becomes `weights-N`, and then
    loses what only a resume needs.

    Raises CheckpointNotFound, ThinRefused, CheckpointCorrupt, MayBeTraining.
    """
    refuse_while_alive(run)
    checkpoint = run.find(reference)
    check_recovery_point(run, check_thinnable(run, checkpoint), on_bytes)
    store = LocalStore(run.path)
    key = run.repository.key(checkpoint)
    name = f"{WEIGHTS_PREFIX}{checkpoint.step}"
    if not key.startswith(FULL_PREFIX) or store.exists(name):
        raise ThinRefused(f"{run.path / name} is in the way", hint="Move it elsewhere first.")
    # Out of the way of stock tools before it is incomplete.
    store.rename(key, name)
    store.sync_directory("")
    for file in checkpoint.files:
        if role_of(file.path) is Role.OPTIMIZER:
            store.delete(f"{name}/{file.path}")
    return Thinned(checkpoint, checkpoint.thinned())


def _take_away(store: LocalStore, key: str) -> None:
    """Out of sight in one rename, then byte by byte: what a kill leaves is no checkpoint to anybody."""
    hidden = f".removing-{uuid.uuid4().hex[:8]}-{os.path.basename(key)}"
    store.rename(key, hidden)
    store.sync_directory("")
    with suppress(OSError):
        store.delete(hidden)
