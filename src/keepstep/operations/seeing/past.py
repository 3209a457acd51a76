"""Another policy over a run's own past: what it would have kept after every save that took place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keepstep.model import Checkpoint, FileEntry, Kind
from keepstep.operations.seeing.chronicle import Past, moment
from keepstep.retention import Outcome, Plan, Policy, fit, make_plan, rank
from keepstep.units import format_size

MOST_DECISIONS = 300_000
"""Decisions of one replay: enough for thousands of saves under any policy that keeps a few."""
MOST_FRAMES = 400
"""Frames that are shown of a replay; more can't be told apart on a screen."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A save of the past, and what the policy would have left after it: steps of whole and of thinned checkpoints.

    `removed` since the frame before, each with the reason. `bytes` of what is left.
    """

    step: int
    kept: tuple[int, ...]
    thinned: tuple[int, ...]
    removed: tuple[tuple[int, str], ...]
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; bytes."""
        return {
            "step": self.step,
            "kind": "commit",
            "kept": list(self.kept),
            "thinned": list(self.thinned),
            "removed": [{"step": step, "reason": reason} for step, reason in self.removed],
            "bytes": self.bytes,
        }


@dataclass(frozen=True, slots=True)
class PastReplay:
    """Frames in the order of the saves, what is left in the end (steps), the best, where one would resume; a note."""

    frames: tuple[Frame, ...]
    kept: tuple[int, ...]
    best: int | None
    resume_from: int | None
    note: str

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines."""
        final = {"kept": list(self.kept), "best": self.best, "resume_from": self.resume_from}
        return {"frames": [frame.to_json() for frame in self.frames], "final": final, "note": self.note}


def replay_past(
    past: Past, policy: Policy, known: Mapping[int, Checkpoint], *, run_id: str, budget: int | None = None
) -> PastReplay:
    """The policy over every commit of the past, in order, with the metrics that were known at each moment.

    `known` are checkpoints by generation whose files can still be seen; of the others the share of weights is taken
    from the newest whole one of these. Rewinds are followed. Pins play no part: when they were made is not told.
    """
    return _Replay(past, policy, known, run_id, budget).play()


class _Replay:
    def __init__(
        self, past: Past, policy: Policy, known: Mapping[int, Checkpoint], run_id: str, budget: int | None
    ) -> None:
        self._past = past
        self._policy = policy
        self._known = known
        self._run_id = run_id
        self._budget = budget
        whole = [c for c in known.values() if c.kind is Kind.FULL and c.size_bytes]
        self._share = sum(f.size for f in whole[-1].weights) / whole[-1].size_bytes if whole else 1.0
        self._left: tuple[Checkpoint, ...] = ()
        self._now = datetime.now(UTC)
        self._decisions = 0
        self._arrived = [0, 0]
        """Values of the metric that came with a commit, and after it."""

    def play(self) -> PastReplay:
        frames: list[Frame] = []
        removed: list[tuple[int, str]] = []
        seen = 0
        for what, argument in self._past.turns:
            if what == "aside":
                self._left = tuple(c for c in self._left if c.generation <= argument)
                continue
            if what == "return":
                self._bring_back(*argument)
                continue
            if self._decisions > MOST_DECISIONS:
                break
            if what == "metrics":
                removed += self._measure(*argument)
                continue
            seen += 1
            new = self._checkpoint(argument)
            self._count(new.metrics, later=False)
            self._now = new.created
            removed += self._decide((*self._left, new))
            frames.append(self._frame(new.step, tuple(removed)))
            removed = []
        return self._result(frames, seen)

    def _bring_back(self, back: Sequence[int], aside: Sequence[int]) -> None:
        """A restore: another course is the run's from here on."""
        staying = [c for c in self._left if c.generation not in {*back, *aside}]
        coming = [self._checkpoint(generation) for generation in back if generation in self._past.commits]
        self._left = tuple(sorted((*staying, *coming), key=lambda checkpoint: checkpoint.generation))

    def _result(self, frames: list[Frame], seen: int) -> PastReplay:
        metric = self._policy.metric
        ranked = rank(self._left, metric) if metric else ()
        resumable = [c for c in self._left if c.resumable]
        return PastReplay(
            _fewer(frames),
            tuple(c.step for c in self._left),
            ranked[0].step if ranked else None,
            resumable[-1].step if resumable else None,
            self._note(seen, len(frames)),
        )

    def _note(self, seen: int, frames: int) -> str:
        total = len(self._past.commits)
        text = f"Replayed over {seen:,} saves of this run, with the metrics known at each; pins are left out."
        if seen < total:
            text = (
                f"Replayed over the first {seen:,} of {total:,} saves: this policy keeps too many to go on; "
                "pins are left out."
            )
        return f"{text} One of {-(-frames // MOST_FRAMES)} is shown." if frames > MOST_FRAMES else text

    def _count(self, values: Mapping[str, float], *, later: bool) -> None:
        metric = self._policy.metric
        self._arrived[later] += metric is not None and metric.value(values) is not None

    def _measure(self, generation: int, values: Mapping[str, float]) -> list[tuple[int, str]]:
        """Metrics that came after a commit: the policy decides again, as it does in training."""
        self._count(values, later=True)
        if all(c.generation != generation for c in self._left):
            return []
        return self._decide(tuple(c.with_metrics(values) if c.generation == generation else c for c in self._left))

    def _decide(self, checkpoints: tuple[Checkpoint, ...]) -> list[tuple[int, str]]:
        self._decisions += len(checkpoints)
        with_commits, later = self._arrived
        plan: Plan = make_plan(checkpoints, self._policy, now=self._now, evaluated_later=later > with_commits)
        if self._budget is not None:
            why = f"over the budget of {format_size(self._budget)}"
            plan = fit(plan, self._budget, self._policy.metric, why=why)
        self._left = plan.left
        return [(d.checkpoint.step, "; ".join(d.reasons)) for d in plan.decisions if d.outcome is Outcome.REMOVE]

    def _frame(self, step: int, removed: tuple[tuple[int, str], ...]) -> Frame:
        whole = tuple(c.step for c in self._left if c.kind is Kind.FULL)
        thinned = tuple(c.step for c in self._left if c.kind is Kind.WEIGHTS)
        return Frame(step, whole, thinned, removed, sum(c.size_bytes for c in self._left))

    def _checkpoint(self, generation: int) -> Checkpoint:
        """A commit of the past as it was then: whole, with the metrics of its commit."""
        commit = self._past.commits[generation]
        known = self._known.get(generation)
        if known is not None and known.kind is Kind.FULL:
            files = known.files
        else:
            weights = round(commit.size_bytes * self._share)
            rest = commit.size_bytes - weights
            files = (FileEntry("model.safetensors", weights, ""), FileEntry("optimizer.pt", rest, ""))
            files = (
                files if rest and not commit.weights_only else (FileEntry("model.safetensors", commit.size_bytes, ""),)
            )
        return Checkpoint(
            self._run_id,
            generation,
            commit.timeline,
            None,
            commit.step,
            None,
            Kind.WEIGHTS if commit.weights_only else Kind.FULL,
            moment(commit.time) or self._now,
            commit.at_commit,
            files,
        )


def _fewer(frames: list[Frame]) -> tuple[Frame, ...]:
    """Few enough to show, evenly, with the last; what was removed between two is told by the later."""
    if len(frames) <= MOST_FRAMES:
        return tuple(frames)
    every = -(-len(frames) // MOST_FRAMES)
    found: list[Frame] = []
    removed: list[tuple[int, str]] = []
    for number, frame in enumerate(frames, start=1):
        removed += frame.removed
        if number % every == 0 or number == len(frames):
            found.append(Frame(frame.step, frame.kept, frame.thinned, tuple(removed), frame.bytes))
            removed = []
    return tuple(found)
