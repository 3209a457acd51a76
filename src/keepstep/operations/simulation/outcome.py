"""After a crash: what exists, what to resume from, what to deploy, and why these differ."""

from __future__ import annotations

from dataclasses import dataclass

from keepstep.model import Checkpoint
from keepstep.operations.simulation.replay import Replay
from keepstep.retention import rank
from keepstep.units import format_number


@dataclass(frozen=True, slots=True)
class Outcome:
    """`step` is where the training stopped; `resume` the newest resumable checkpoint; `deploy` the best by the metric.

    `before` is the resume point had the stop come before the commit of its last save (None: there was none before).
    """

    step: int
    on_disk: tuple[Checkpoint, ...]
    resume: Checkpoint | None
    deploy: Checkpoint | None
    before: Checkpoint | None
    why: tuple[str, ...]

    @property
    def lost_steps(self) -> int:
        """Steps to be trained again."""
        return self.step - (self.resume.step if self.resume else 0)


def outcome(replay: Replay) -> Outcome:
    """What is left when the replayed training stops where the replay ends."""
    on_disk = replay.on_disk
    resumable = [checkpoint for checkpoint in on_disk if checkpoint.resumable]
    resume = resumable[-1] if resumable else None
    ranked = rank(on_disk, replay.policy.metric) if replay.policy.metric else ()
    deploy = ranked[0] if ranked else None
    before = replay.moments[-2].kept[-1] if len(replay.moments) > 1 else None
    return Outcome(replay.until, on_disk, resume, deploy, before, tuple(_why(replay, resume, deploy)))


def _why(replay: Replay, resume: Checkpoint | None, deploy: Checkpoint | None) -> list[str]:
    metric = replay.policy.metric
    if resume is None:
        return ["Nothing was saved before the stop: the training starts anew."]
    lost = replay.until - resume.step
    kept = (
        f"Recovery: step {resume.step} is the newest whole checkpoint, so the least work is lost "
        f"({lost:,} {'step' if lost == 1 else 'steps'}). It holds weights, optimizer, scheduler and random states."
    )
    texts = [kept]
    if metric is None or deploy is None:
        return [*texts, "Quality: nothing was evaluated, so no checkpoint can be called the best."]
    value, newest = metric.value(deploy.metrics), metric.value(resume.metrics)
    assert value is not None
    texts.append(
        f"Quality: step {deploy.step} is the best by {metric.name} ({metric.direction}): {format_number(value)}."
    )
    if deploy.generation == resume.generation:
        return [*texts, "Both are the same here: the newest happens to be the best so far."]
    shipped = "an unranked model" if newest is None else f"{metric.name} {format_number(newest)}"
    from_best = (
        f"resuming from {deploy.step} would repeat {resume.step - deploy.step:,} steps that are safe on disk"
        if deploy.resumable
        else f"{deploy.step} has its weights alone, nothing to resume from"
    )
    differ = (
        f"They differ because recovery asks how far the training came, and quality how good it was: {from_best}, and "
        f"deploying {resume.step} would ship {shipped}."
    )
    return [*texts, differ]
