"""What a run directory says of its training: its policy, its manifests, its event log."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import median
from typing import Any, cast

from keepstep.model import Checkpoint, Kind, State
from keepstep.operations.checking import unreadable
from keepstep.operations.doctor.facts import Facts, Pace, RunState
from keepstep.operations.doctor.found import Where
from keepstep.operations.doctor.settings import DEFAULTS, Given, Settings
from keepstep.operations.doctor.surroundings import look_at
from keepstep.operations.seeing.mirrored import mirrored_of
from keepstep.retention import Metric
from keepstep.run import Run, StockRun

_PAST = 50
"""Commits from whose times the pace is told."""


def facts_of_run(run: Run) -> Facts:
    """Facts of a run at rest or at work. Raises PolicyError when its policy was edited into nonsense."""
    listing = run.listing()
    checkpoints = listing.checkpoints
    policy = run.policy
    newest = checkpoints[-1] if checkpoints else None
    return Facts(
        "run",
        Where(str(run.path)),
        _settings(newest),
        attached=run.managed,
        policy=policy,
        chosen=policy.metric,
        keep=Given(run.file.keep),
        resume_known=False,
        place=look_at(run.path),
        pace=_pace(checkpoints),
        run=_state(run, checkpoints, tuple(f.path.name for f in listing.foreign)),
    )


def _settings(newest: Checkpoint | None) -> Settings:
    """The arguments that the newest checkpoint remembers; what it leaves out is not known."""
    remembered: Any = newest.fingerprint.get("arguments") if newest else None
    values = cast("dict[str, Any]", remembered) if isinstance(remembered, dict) else {}
    found = {name: Given(values[name]) for name in DEFAULTS if name in values}
    return Settings(found, complete=False, why_incomplete="what the run does not remember")


def _pace(checkpoints: tuple[Checkpoint, ...]) -> Pace:
    full = [c for c in checkpoints if c.kind is Kind.FULL]
    past = full[-_PAST:]
    speeds = [
        (later.created - earlier.created).total_seconds() / (later.step - earlier.step)
        for earlier, later in pairwise(past)
        if later.step > earlier.step and later.parent == earlier.generation
    ]
    return Pace(step_seconds=median(speeds) if speeds else None, checkpoint_bytes=full[-1].size_bytes if full else None)


def _state(run: Run, checkpoints: tuple[Checkpoint, ...], foreign: tuple[str, ...]) -> RunState:
    damaged = run.events.damaged() | {c.generation for c in checkpoints if c.damage}
    bad = tuple(checked.path.name for checked in unreadable(run)) if foreign else ()
    whole = [c for c in checkpoints if c.kind is Kind.FULL]
    metric = run.policy.metric
    unranked = [c for c in checkpoints if not c.damage and _unranked(metric, c)] if metric else []
    quarantined = [c for c in run.aside if c.state is State.QUARANTINED]
    newest = max((c.generation for c in checkpoints), default=-1)
    return RunState(
        whole=tuple(c.step for c in whole),
        weights=tuple(c.step for c in checkpoints if c.kind is not Kind.FULL),
        damaged=tuple(c.step for c in checkpoints if c.generation in damaged),
        newest_damaged=bool(whole) and whole[-1].generation in damaged,
        quarantined=tuple(c.step for c in quarantined),
        newest_quarantined=bool(quarantined) and quarantined[-1].generation > newest,
        strangers=tuple(name for name in foreign if name not in bad),
        unreadable=bad,
        unranked=tuple(c.step for c in unranked),
        aside=sum(c.size_bytes for c in (*run.aside, *run.previous)),
        failed=_last_failure(run),
        torn=_torn(run, checkpoints) if isinstance(run, StockRun) else None,
        mirror=_mirror_problem(run, checkpoints),
    )


def _mirror_problem(run: Run, checkpoints: tuple[Checkpoint, ...]) -> str:
    mirror = mirrored_of(run, checkpoints, alive=run.lock.in_use)
    return "" if mirror is None else mirror.problem


def _torn(run: StockRun, checkpoints: tuple[Checkpoint, ...]) -> dict[int, str]:
    return {c.step: f"{run.word_for(c)}: {'; '.join(run.flaws(c))}" for c in checkpoints if c.damage}


def _unranked(metric: Metric, checkpoint: Checkpoint) -> bool:
    value = metric.value(checkpoint.metrics)
    return value is None or math.isnan(value)


def _last_failure(run: Run) -> str:
    """What the event log says of a save that failed after the last commit."""
    failed: dict[str, Any] | None = None
    for event in run.events.read():
        if event["event"] == "committed":
            failed = None
        elif event["event"] in ("failed", "refused"):
            failed = event
    if failed is None:
        return ""
    return f"the save of step {failed.get('step')} did not succeed: {failed.get('error')}"
