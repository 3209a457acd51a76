"""What the page's closer looks show: one checkpoint, the disk, a policy on trial, the health of a run."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from keepstep.model import Checkpoint
from keepstep.operations.doctor import examine_run
from keepstep.operations.removing.pruning import policy_for
from keepstep.operations.removing.sandbox import propose
from keepstep.operations.seeing.chronicle import Past, Use
from keepstep.operations.seeing.differences import differences
from keepstep.operations.seeing.forecast import Ahead, Forecast, forecast
from keepstep.operations.seeing.overview import cadence, is_training
from keepstep.operations.seeing.past import replay_past
from keepstep.operations.seeing.showing import show_generation
from keepstep.operations.usage import usage
from keepstep.run import Run
from keepstep.units import parse_size
from keepstep.web.pages import course_of, curves_of
from keepstep.web.places import parts_of
from keepstep.web.prospects import flaws_of, obstacle
from keepstep.web.view import Opened

MOST_USES = 1_000
"""Points of the disk use over time."""


def checkpoint(opened: Opened, generation: int) -> dict[str, Any]:
    """One checkpoint in full. Raises CheckpointNotFound."""
    run, past = opened.run, opened.chronicle.read()
    details = show_generation(run, generation, past.receipts)
    one = details.row.checkpoint
    check = past.checks.get(generation)
    before = [c for c in run.checkpoints if c.generation < generation]
    return details.to_json() | {
        "best": details.row.best,
        "newest": details.row.newest,
        "name": one.name,
        "verification": check.to_json() if check else None,
        "commands": _commands(run, one),
        **flaws_of(run, one),
        "previous": _previous(before[-1], one) if before else None,
    }


def disk(opened: Opened) -> dict[str, Any]:
    """Where the bytes are, how it came to that, and what it will be at the end."""
    run, past = opened.run, opened.chronicle.read()
    found = usage(run)
    kinds = found.kinds.to_json()
    return {
        "kinds": kinds,
        "by_checkpoint": [
            {
                "generation": share.checkpoint.generation,
                "name": share.checkpoint.name,
                "step": share.checkpoint.step,
                "weights": share.kinds.weights,
                "optimizer": share.kinds.optimizer,
                "other": share.kinds.other,
                "prune_frees_bytes": share.prune_bytes,
                "thin_frees_bytes": share.thin_bytes,
            }
            for share in found.shares
        ],
        "used_bytes": found.budget_used,
        "all_bytes": found.kinds.total,
        "budget_bytes": run.limits.budget,
        "free_bytes": found.disk.free_bytes,
        "total_bytes": found.disk.total_bytes,
        "over_time": [{"time": use.time, "step": use.step, "bytes": use.bytes} for use in _fewer(past.uses)],
        "forecast": ahead.to_json() if (ahead := _forecast(opened, past, found.disk.free_bytes)) else None,
        "frees": {"prune_bytes": found.prune_bytes, "thin_bytes": found.thin_bytes},
        "parts": parts_of(run, found, training=is_training(run)),
        "unmanaged": [
            {"name": one.path.name, "reason": one.reason, "bytes": one.size_bytes} for one in found.unmanaged
        ],
        "unreadable": [item.to_json() for item in found.unreadable],
    }


def plan(opened: Opened, keep: str | None, budget: str | None) -> dict[str, Any]:
    """What a policy and a budget would do now. Raises PolicyError, QuantityError."""
    return propose(opened.run, keep, budget).to_json()


def replay(opened: Opened, keep: str | None, budget: str | None) -> dict[str, Any]:
    """What a policy and a budget would have done with this run's past. Raises PolicyError, QuantityError."""
    run, past = opened.run, opened.chronicle.read()
    policy = policy_for(run, keep, None, None)
    limit = run.limits.budget if budget is None else parse_size(budget, "budget")
    known = {one.generation: one for one in run.checkpoints}
    return replay_past(past, policy, known, run_id=run.id, budget=limit).to_json()


def health(opened: Opened) -> dict[str, Any]:
    """What doctor finds, what happened, how the attempts ended, what saves cost."""
    run, past = opened.run, opened.chronicle.read()
    return {
        "findings": [finding.to_json() for finding in examine_run(run).findings],
        "events": list(reversed(past.last)),
        "attempts": curves_of(opened).to_json()["attempts"],
        "stalls": [stall.to_json() for stall in past.stalls[-MOST_USES:]],
    }


def _commands(run: Run, one: Checkpoint) -> dict[str, str]:
    """Command lines to copy, of this checkpoint: no resume from what is damaged, no pin where nothing is managed."""
    path, step = shlex.quote(str(run.path)), one.step
    commands = {
        "show": f"keepstep show {path} step:{step}",
        "verify": f"keepstep verify {path} step:{step}",
    }
    if obstacle(run, one) is None:
        commands["resume"] = f"keepstep resume {path} --ref step:{step}"
    if not one.spoiled:
        commands["export"] = f"keepstep export {path} step:{step} DIRECTORY"
    if not run.managed:
        commands["adopt"] = f"keepstep adopt {path}"
    elif not one.damage:
        commands["pin"] = f"keepstep pin {path} step:{step}"
    elif not is_training(run):
        commands["quarantine"] = f"keepstep verify {path} step:{step} --quarantine"
    return commands


def _previous(before: Checkpoint, one: Checkpoint) -> dict[str, Any]:
    found = [change.to_json() for change in differences(before, one)]
    return {"generation": before.generation, "name": before.name, "differences": found}


def _forecast(opened: Opened, past: Past, free_bytes: int) -> Forecast | None:
    """None where the last step, or how often it saves, is not known."""
    run, course = opened.run, course_of(opened)
    checkpoints = run.checkpoints
    every = cadence(checkpoints, past)
    if every is None or course.max_steps is None:
        return None
    step = max(course.step or 0, checkpoints[-1].step)
    last = step if course.ended == "finished" else course.max_steps
    ahead = Ahead(last, every, step, past.pace)
    return forecast(
        checkpoints,
        run.policy,
        ahead,
        free_bytes=free_bytes,
        budget=run.limits.budget,
        aside=(*run.aside, *run.previous),
        pinned=run.pins.held,
        held_before=run.previous_runs.held(),
        now=datetime.now(UTC),
    )


def _fewer(uses: Sequence[Use]) -> list[Use]:
    """Few enough to draw: of each piece the last, and the one that took most."""
    if len(uses) <= MOST_USES:
        return list(uses)
    size = -(-len(uses) // (MOST_USES // 2))
    found: list[Use] = []
    for start in range(0, len(uses), size):
        piece = uses[start : start + size]
        most = max(range(len(piece)), key=partial(_bytes_at, piece))
        found += [piece[most]] if most == len(piece) - 1 else [piece[most], piece[-1]]
    return found


def _bytes_at(piece: Sequence[Use], place: int) -> int:
    return piece[place].bytes
