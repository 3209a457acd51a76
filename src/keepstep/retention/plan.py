"""The retention plan: which checkpoints stay, which are thinned to weights, which go, and a reason for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from keepstep.errors import PolicyError
from keepstep.model import Checkpoint, Damage, State
from keepstep.retention.metrics import Metric
from keepstep.retention.rules import EVALUATED_LATER, All, Best, Context, Hold, Latest, Pending, Pinned, Rule, rank
from keepstep.retention.spec import format_spec, parse

__all__ = ["Decision", "Outcome", "Plan", "Policy", "default_policy", "make_plan", "rank"]

_NOT_COMMITTED = {
    State.SET_ASIDE: "set aside by a rewind: not in this timeline",
    State.QUARANTINED: "quarantined: kept while there is room, or until a person decides",
    State.PREVIOUS: "of a previous run: kept while there is room",
}
DAMAGED = {
    Damage.RESUME: "damaged, but for its weights: kept while there is room, or until a person decides",
    Damage.WEIGHTS: "damaged: kept while there is room, or until a person decides",
}
"""Why a committed checkpoint stays that takes no place of another: the law of what is in quarantine."""

Before = tuple[str, int]
"""A checkpoint of a previous run: the id of that run, and its generation there."""


class Policy(msgspec.Struct, frozen=True):
    """What to keep: a checkpoint stays when any rule keeps it.

    PolicyError without a rule, and when a rule ranks but no metric is named.
    """

    rules: tuple[Rule, ...]
    metric: Metric | None = None

    def __post_init__(self) -> None:
        if not self.rules:
            raise PolicyError(
                "a retention policy needs a rule",
                hint="Use 'all' to keep everything, 'latest:1' to keep only the newest.",
            )
        if self.metric is None and any(rule.needs_metric for rule in self.rules):
            raise PolicyError(
                f"the policy {format_spec(self.rules)!r} ranks checkpoints, but no metric is named",
                hint="Name one that is evaluated (metric_for_best_model), or use a rule such as 'latest:3'.",
            )

    @classmethod
    def from_spec(cls, spec: str, metric: Metric | None = None) -> Policy:
        """The policy of a spec such as `best:3,latest:2`; PolicyError as from `parse`."""
        return cls(parse(spec), metric)

    def in_force(self, context: Context) -> tuple[Rule, ...]:
        """Its rules, and `pending:6h` where they rank, don't say how long to wait, and values come after the saves."""
        ranks = any(rule.needs_metric for rule in self.rules)
        waits = any(isinstance(rule, Pending) for rule in self.rules)
        return (*self.rules, EVALUATED_LATER) if ranks and not waits and context.evaluated_later else self.rules

    def describe(self) -> str:
        """One sentence for people: `the best 3 by eval_loss (lower is better), plus the newest`."""
        if any(isinstance(rule, All) for rule in self.rules):
            return "everything"
        phrases = [rule.phrase(self.metric) for rule in self.rules]
        if not any(isinstance(rule, Latest) for rule in self.rules):
            phrases.append("the newest")
        first, *rest = phrases
        more = " and ".join(filter(None, [", ".join(rest[:-1]), *rest[-1:]]))
        return f"{first}, plus {more}" if more else first


class Outcome(StrEnum):
    """What a plan does with a checkpoint."""

    KEEP = "keep"
    THIN = "thin"
    REMOVE = "remove"


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What happens to one checkpoint: every reason to keep it (whole, or thinned), or one sentence why it goes.

    `hold` is how firmly it is kept.
    """

    checkpoint: Checkpoint
    outcome: Outcome
    reasons: tuple[str, ...]
    hold: Hold

    @property
    def stays(self) -> bool:
        """True when its weights at least are kept."""
        return self.outcome is not Outcome.REMOVE

    @property
    def left(self) -> Checkpoint | None:
        """What is left of it: all, its weights, or nothing."""
        match self.outcome:
            case Outcome.KEEP:
                return self.checkpoint
            case Outcome.THIN:
                return self.checkpoint.thinned()
            case Outcome.REMOVE:
                return None

    @property
    def kept_bytes(self) -> int:
        """Bytes of what is left of it."""
        return left.size_bytes if (left := self.left) else 0


class Plan(msgspec.Struct, frozen=True, dict=True):
    """A decision for every checkpoint, ordered by generation.

    `aside` are decisions on what lies aside: on previous runs, the oldest first, then on what a rewind set aside, then
    on what is in quarantine, each by generation; several may be of one generation.
    """

    decisions: tuple[Decision, ...]
    aside: tuple[Decision, ...] = ()

    @property
    def keep(self) -> tuple[Checkpoint, ...]:
        """Checkpoints that stay as they are, ordered by generation."""
        return self._with(Outcome.KEEP)

    @property
    def left(self) -> tuple[Checkpoint, ...]:
        """What is there when the plan is carried out, ordered by generation, what lies aside last; of what is thinned,
        the weights.
        """
        return tuple(left for decision in (*self.decisions, *self.aside) if (left := decision.left))

    @property
    def thin(self) -> tuple[Checkpoint, ...]:
        """Checkpoints of which the weights stay, ordered by generation."""
        return self._with(Outcome.THIN)

    @property
    def remove(self) -> tuple[Checkpoint, ...]:
        """Committed checkpoints that go, ordered by generation."""
        return self._with(Outcome.REMOVE)

    @property
    def remove_aside(self) -> tuple[Checkpoint, ...]:
        """Checkpoints that go and lie aside."""
        return tuple(decision.checkpoint for decision in self.aside if not decision.stays)

    @property
    def changes(self) -> bool:
        """True when anything is thinned or removed."""
        return any(decision.outcome is not Outcome.KEEP for decision in (*self.decisions, *self.aside))

    @property
    def kept_bytes(self) -> int:
        """Bytes of the committed checkpoints that stay."""
        return sum(decision.kept_bytes for decision in self.decisions)

    @property
    def kept_aside_bytes(self) -> int:
        """Bytes of what stays and lies aside."""
        return sum(decision.kept_bytes for decision in self.aside)

    @property
    def taken_bytes(self) -> int:
        """Bytes of everything now, what lies aside too: what a budget counts."""
        return sum(decision.checkpoint.size_bytes for decision in (*self.decisions, *self.aside))

    @property
    def freed_bytes(self) -> int:
        """Bytes of what goes."""
        return self.taken_bytes - self.kept_bytes - self.kept_aside_bytes

    def _with(self, outcome: Outcome) -> tuple[Checkpoint, ...]:
        return tuple(decision.checkpoint for decision in self.decisions if decision.outcome is outcome)

    def reasons(self, generation: int) -> tuple[str, ...]:
        """Reasons of the decision on that generation; KeyError when the plan doesn't hold it."""
        return self._reasons[generation]

    @cached_property
    def _reasons(self) -> dict[int, tuple[str, ...]]:
        return {decision.checkpoint.generation: decision.reasons for decision in self.decisions}


def default_policy(limit: int | None, metric: Metric | None) -> Policy:
    """What people expect of `save_total_limit`: the best by the metric plus the newest, else just the newest; whole.

    With a metric at most `limit` + 1 checkpoints stay, without one `limit`; with limit None everything does, and when
    room runs out the best 3 and the latest 2 stay longest.
    PolicyError when `limit` is below 1.
    """
    if limit is None:
        return Policy((All(), *([Best(3)] if metric else []), Latest(2)), metric)
    if metric is None:
        return Policy((Latest(limit),))
    return Policy((Best(limit, full=True), Latest(1)), metric)


def make_plan(
    checkpoints: Iterable[Checkpoint],
    policy: Policy,
    *,
    aside: Iterable[Checkpoint] = (),
    now: datetime,
    pinned: Iterable[int] = frozenset(),
    protected: Mapping[int, str] | None = None,
    held_before: Mapping[Before, str] | None = None,
    evaluated_later: bool = False,
) -> Plan:
    """The plan for these checkpoints, in any order; the same input gives the same plan.

    `now` is an aware time. `pinned` are generations that people hold on to; `protected` maps generations that
    must not go now to the reason (resumed from, being uploaded). These stay whatever the rules say, and so
    does the newest checkpoint that can be resumed from, or the newest of any kind where none can. What is
    quarantined or set aside takes part in no rule and stays, among `checkpoints` or, several of one generation too,
    in `aside`. There are those of previous runs too; `held_before` says which of these must not go, and why: their
    generations are not the run's, so they are named by run and generation. What is known to be damaged takes no place
    that a sound one could have, and stays while there is room. `evaluated_later` says that values of the metric have
    mostly come after the saves so far: then one without a value stays for a while (`Policy.in_force`). What is kept for
    its metric alone is thinned to its weights, where it has any and the rule doesn't ask for it whole.
    ValueError when a generation stands twice or `now` has no time zone.
    """
    ordered = tuple(sorted(checkpoints, key=lambda checkpoint: checkpoint.generation))
    everything = Context(ordered, policy.metric, now, frozenset(pinned))
    committed = tuple(c for c in ordered if c.state is State.COMMITTED)
    context = Context(committed, policy.metric, now, everything.pinned, evaluated_later)
    rules = policy.in_force(context)
    grounds = [
        *(_Ground(rule.keeps(context), rule.held(context), rule.keeps_whole(context)) for rule in rules),
        _Ground(Pinned().keeps(everything)),
        _Ground(_recovery_point(context)),
        _Ground({c.generation: DAMAGED[c.damage] for c in committed if c.damage}, Hold.ROOM),
        _Ground({c.generation: _NOT_COMMITTED[c.state] for c in ordered if c.state in _NOT_COMMITTED}),
        _Ground(protected or {}),
    ]
    missed = _Missed.of(rules, policy.metric, _places(context))
    found: dict[int, list[_Ground]] = {}
    for ground in grounds:
        for generation in ground.reasons:
            found.setdefault(generation, []).append(ground)
    decisions = tuple(_decide(checkpoint, found.get(checkpoint.generation, ()), missed) for checkpoint in ordered)
    return Plan(decisions, tuple(_decide_aside(aside, everything.pinned, held_before or {})))


def without_aside(plan: Plan, states: Iterable[State], why: str) -> Plan:
    """The plan with everything removed that lies aside in one of these states, and is not pinned."""
    unwanted = frozenset(states)
    return Plan(
        plan.decisions,
        tuple(
            replace(decision, outcome=Outcome.REMOVE, reasons=(f"{why}: {_what(decision.checkpoint)}",), hold=Hold.NOT)
            if decision.checkpoint.state in unwanted and decision.hold is not Hold.LAW
            else decision
            for decision in plan.aside
        ),
    )


def _what(checkpoint: Checkpoint) -> str:
    """What lies aside, in words: of a previous run its id too."""
    named = checkpoint.state is State.PREVIOUS
    return f"{checkpoint.state.value}, {checkpoint.run_id}" if named else checkpoint.state.value


def _decide_aside(
    aside: Iterable[Checkpoint], pinned: frozenset[int], held_before: Mapping[Before, str]
) -> Iterator[Decision]:
    """All of it stays while there is room, what is pinned whatever becomes of that."""
    for checkpoint in _in_turn(tuple(aside)):
        reason = _NOT_COMMITTED[checkpoint.state]
        if checkpoint.state is State.PREVIOUS:
            held = held_before.get((checkpoint.run_id, checkpoint.generation))
        else:
            held = PINNED if checkpoint.generation in pinned else None
        if held is not None:
            yield Decision(checkpoint, Outcome.KEEP, (held, reason), Hold.LAW)
        else:
            yield Decision(checkpoint, Outcome.KEEP, (reason,), Hold.ROOM)


def _in_turn(aside: tuple[Checkpoint, ...]) -> list[Checkpoint]:
    """As it is given up: of previous runs, of an abandoned timeline, from quarantine; a run is as old as its newest."""
    order = (State.PREVIOUS, State.SET_ASIDE, State.QUARANTINED)
    ended: dict[str, datetime] = {}
    for checkpoint in aside:
        ended[checkpoint.run_id] = max(ended.get(checkpoint.run_id, checkpoint.created), checkpoint.created)

    def turn(checkpoint: Checkpoint) -> tuple[int, float, str, int, str]:
        run, before = checkpoint.run_id, checkpoint.state is State.PREVIOUS
        age = ended[run].timestamp() if before else 0.0
        return order.index(checkpoint.state), age, run if before else "", checkpoint.generation, str(checkpoint.path)

    return sorted(aside, key=turn)


class _Ground(NamedTuple):
    """One ground to keep checkpoints: generation to reason, how firmly, and whether weights alone would not do."""

    reasons: Mapping[int, str]
    hold: Hold = Hold.LAW
    whole: bool = True


def _decide(checkpoint: Checkpoint, found: Sequence[_Ground], missed: _Missed) -> Decision:
    """Keep it where there is any ground to; thin it where none of them needs all of it."""
    if not found:
        return Decision(checkpoint, Outcome.REMOVE, (missed.why(checkpoint),), Hold.NOT)
    by_weights = not any(ground.whole for ground in found)
    thins = by_weights and checkpoint.thinnable
    reasons = tuple(dict.fromkeys(ground.reasons[checkpoint.generation] for ground in found))
    if by_weights and not checkpoint.weights_apart:
        reasons += (NOT_APART,)
    return Decision(checkpoint, Outcome.THIN if thins else Outcome.KEEP, reasons, max(ground.hold for ground in found))


NOT_APART = "whole: its weights lie in DeepSpeed's files alone"
"""Why a checkpoint is not thinned, where its metric alone keeps it."""
RECOVERY_POINT = "newest: the recovery point"
PINNED = "pinned"
"""Why a checkpoint that people hold on to stays."""


def _recovery_point(context: Context) -> dict[int, str]:
    """Law 2: what stays whatever the rules say."""
    newest = next((checkpoint for checkpoint in reversed(context.sound) if checkpoint.resumable), None)
    if newest is not None:
        return {newest.generation: RECOVERY_POINT}
    left = [c for c in context.checkpoints if not c.spoiled] or context.checkpoints
    return {checkpoint.generation: "newest: none can be resumed from" for checkpoint in left[-1:]}


def _places(context: Context) -> dict[int, int]:
    """Place (from 1) of each ranked generation."""
    return {c.generation: place for place, c in enumerate(context.ranked, start=1)}


class _Missed(msgspec.Struct, frozen=True):
    """What a checkpoint missed that no rule keeps; `metric` is None where no rule ranks.

    `by_all` and `by_others` say what all rules but the one that waits for values, and those that don't rank, have not
    found in it; `waited` what that one did.
    """

    metric: Metric | None
    places: Mapping[int, int]
    by_all: str
    by_others: str
    waited: str

    @classmethod
    def of(cls, rules: Sequence[Rule], metric: Metric | None, places: Mapping[int, int]) -> _Missed:
        ranks = any(rule.needs_metric for rule in rules)
        by_all = ", ".join(rule.missed() for rule in rules if not isinstance(rule, Pending))
        by_others = ", ".join(rule.missed() for rule in rules if not rule.needs_metric)
        waited = "".join(f", {rule.missed()}" for rule in rules if isinstance(rule, Pending))
        return cls(metric if ranks else None, places, by_all, by_others, waited)

    def why(self, checkpoint: Checkpoint) -> str:
        """One sentence on why a checkpoint goes."""
        if self.metric is None:
            return self.by_all
        place = self.places.get(checkpoint.generation)
        if place is not None:
            ranked = f"rank {place} of {len(self.places)} by {self.metric.name}"
            return f"{ranked}; {self.by_all}" if self.by_all else ranked
        name = self.metric.name
        no_value = self.metric.value(checkpoint.metrics) is None
        why = f"no {name}{self.waited}" if no_value else f"{name} is NaN"
        return f"not ranked: {why}" + (f"; {self.by_others}" if self.by_others else "")
