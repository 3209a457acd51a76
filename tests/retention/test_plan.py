"""Plans: examples from the field, and laws that hold for any run."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from keepstep.errors import PolicyError
from keepstep.model import Checkpoint, Kind, State
from keepstep.retention import (
    All,
    Best,
    Daily,
    Every,
    Hourly,
    Latest,
    Metric,
    Outcome,
    Pinned,
    Plan,
    Policy,
    Within,
    default_policy,
    make_plan,
    rank,
    rules,
)
from tests.checkpoints import EPOCH, make_checkpoint, make_run
from tests.retention.test_spec import RULE_TUPLES

LOSS = Metric("eval_loss", "min")
NOW = EPOCH + timedelta(hours=9)
U_SHAPED = [2.1, 1.6, 1.3, 1.35, 1.5, 1.7]


def generations(checkpoints: Sequence[Checkpoint]) -> list[int]:
    return [checkpoint.generation for checkpoint in checkpoints]


def steps(checkpoints: Sequence[Checkpoint]) -> list[int]:
    return [checkpoint.step for checkpoint in checkpoints]


def plan_of(run: Sequence[Checkpoint], spec: str, metric: Metric | None = LOSS) -> Plan:
    return make_plan(run, Policy.from_spec(spec, metric), now=NOW)


def test_the_textbook_question_crash_after_step_3000_with_limit_3() -> None:
    run = make_run(U_SHAPED, every=500)
    plan = make_plan(run, default_policy(3, LOSS), now=NOW)
    assert steps(plan.keep) == [1500, 2000, 2500, 3000]
    assert steps(plan.remove) == [500, 1000]
    assert rank(run, LOSS)[0].step == 1500
    assert plan.reasons(3) == ("best 1 of 3 by eval_loss (1.3, lower is better)",)
    assert plan.reasons(6) == ("latest 1 of 1", "newest: the recovery point")
    assert plan.reasons(1) == ("rank 6 of 6 by eval_loss; not among the best 3, not the newest",)


def test_the_textbook_question_decided_at_every_save() -> None:
    on_disk: tuple[Checkpoint, ...] = ()
    for checkpoint in make_run(U_SHAPED, every=500):
        on_disk = make_plan((*on_disk, checkpoint), default_policy(3, LOSS), now=NOW).keep
        assert len(on_disk) <= 4
        assert checkpoint in on_disk
    assert steps(on_disk) == [1500, 2000, 2500, 3000]


def test_removed_ones_are_told_what_would_have_been_needed() -> None:
    run = make_run([0.1, 0.5, 0.2, math.nan, None, 0.3, 0.4])
    plan = plan_of(run, "best:3,latest:2,every:1000,within:1m")
    rest = "not among the latest 2, no milestone of every 1000 steps, older than 1m"
    assert plan.reasons(2) == (f"rank 5 of 5 by eval_loss; not among the best 3, {rest}",)
    assert plan.reasons(4) == (f"not ranked: eval_loss is NaN; {rest}",)
    assert plan.reasons(5) == (f"not ranked: no eval_loss; {rest}",)
    assert plan_of(make_run([None, 0.1]), "best:1").reasons(1) == ("not ranked: no eval_loss",)
    assert plan_of(make_run([0.1, 0.2, 0.3]), "latest:1").reasons(1) == ("not the newest",)


def test_best_alone_keeps_the_recovery_point_too() -> None:
    plan = plan_of(make_run([0.1, 0.2, 0.9]), "best:1")
    assert generations(plan.keep) == [1, 3]
    assert plan.reasons(3) == ("newest: the recovery point",)


def test_the_recovery_point_is_the_newest_full_one_not_the_newest_weights() -> None:
    first, second, third = make_run([0.3, 0.2, 0.1])
    plan = plan_of((first, second, replace(third, kind=Kind.WEIGHTS)), "best:1")
    assert generations(plan.keep) == [2, 3]
    assert plan.reasons(2) == ("newest: the recovery point",)


def test_without_a_full_checkpoint_the_newest_of_any_kind_stays() -> None:
    run = [make_checkpoint(generation, kind=Kind.WEIGHTS) for generation in (1, 2, 3)]
    plan = plan_of(run, "latest:2")
    assert generations(plan.keep) == [3]
    assert plan.reasons(3) == ("newest: none can be resumed from",)


def test_a_rewound_run_goes_by_generation() -> None:
    run = (make_checkpoint(1, step=3000), make_checkpoint(2, step=1500, created=EPOCH - timedelta(days=1)))
    assert generations(plan_of(run, "latest:1").keep) == [2]


def test_pinned_and_protected_ones_stay_with_their_reasons() -> None:
    plan = make_plan(
        make_run([0.3, 0.2, 0.1, 0.05]),
        Policy((Latest(1),)),
        now=NOW,
        pinned={1, 2, 77},
        protected={2: "resumed from", 3: "being uploaded", 88: "not here"},
    )
    assert plan.remove == ()
    assert plan.reasons(1) == ("pinned",)
    assert plan.reasons(2) == ("pinned", "resumed from")
    assert plan.reasons(3) == ("being uploaded",)


def test_a_written_pinned_rule_adds_no_second_reason() -> None:
    plan = make_plan(make_run([0.3, 0.2]), Policy((Pinned(),)), now=NOW, pinned={1})
    assert plan.reasons(1) == ("pinned",)


@pytest.mark.parametrize("state", [State.QUARANTINED, State.SET_ASIDE])
def test_what_is_out_of_the_run_takes_no_place_and_stays(state: State) -> None:
    first, second, third, fourth = make_run([0.3, 0.2, 0.9, 0.1])
    plan = plan_of((first, second, third, replace(fourth, state=state)), "best:1,latest:1")
    assert generations(plan.keep) == [2, 3, 4]
    assert state.value in plan.reasons(4)[0]
    assert plan.reasons(2)[0].startswith("best 1 of 1")


def test_bytes_are_those_of_the_files() -> None:
    run = [make_checkpoint(generation, size=10**generation) for generation in (1, 2, 3)]
    plan = plan_of(run, "latest:1")
    assert plan.freed_bytes == 110
    assert plan.kept_bytes == 1000


def test_nothing_to_decide_on() -> None:
    plan = plan_of((), "best:3")
    assert (plan.decisions, plan.freed_bytes) == ((), 0)
    with pytest.raises(KeyError):
        plan.reasons(1)


def test_input_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="each once"):
        plan_of((make_checkpoint(1), make_checkpoint(1, step=5)), "all")
    with pytest.raises(ValueError, match="each once"):
        plan_of((make_checkpoint(1), make_checkpoint(1, state=State.SET_ASIDE)), "all")
    with pytest.raises(ValueError, match="time zone"):
        make_plan((), Policy((All(),)), now=datetime(2026, 11, 20))


def test_a_policy_needs_a_rule_and_a_metric_to_rank_by() -> None:
    with pytest.raises(PolicyError, match="needs a rule"):
        Policy(())
    with pytest.raises(PolicyError, match="'latest:1,best:3' ranks checkpoints, but no metric"):
        Policy((Latest(1), Best(3)))


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("best:3,latest:1", "the best 3 by eval_loss (lower is better), plus the newest"),
        ("best:3", "the best 3 by eval_loss (lower is better), plus the newest"),
        ("best:1", "the best by eval_loss (lower is better), plus the newest"),
        ("latest:1", "the newest"),
        ("latest:3", "the latest 3"),
        (
            "latest:2,every:1000,within:6h,pinned",
            "the latest 2, plus a milestone every 1000 steps, everything of the last 6h and everything pinned",
        ),
        ("best:3,all", "everything"),
    ],
)
def test_a_policy_describes_itself(spec: str, sentence: str) -> None:
    assert Policy.from_spec(spec, LOSS).describe() == sentence


def test_the_default_policy_is_what_people_expect_of_a_limit() -> None:
    assert default_policy(3, LOSS) == Policy((Best(3, full=True), Latest(1)), LOSS)
    assert default_policy(3, None) == Policy((Latest(3),), None)
    assert default_policy(None, LOSS).rules == (All(), Best(3), Latest(2))
    assert default_policy(None, None).rules == (All(), Latest(2))
    with pytest.raises(PolicyError):
        default_policy(0, None)


def test_rank_puts_the_best_first_and_leaves_out_what_has_no_number() -> None:
    run = make_run([0.5, math.nan, 0.1, None, 0.5, math.inf])
    assert generations(rank(run, LOSS)) == [3, 1, 5, 6]
    assert generations(rank(reversed(run), Metric("eval_loss", "max"))) == [6, 1, 5, 3]


VALUES = st.none() | st.sampled_from([0.1, 0.2, 0.3]) | st.floats()


@st.composite
def runs(draw: st.DrawFn) -> list[Checkpoint]:
    """Any run: gaps, rewinds, clocks that jump, weights, quarantined ones; in any order."""
    numbers = draw(st.lists(st.integers(0, 60), unique=True, max_size=12))
    run: list[Checkpoint] = []
    for generation in numbers:
        value = draw(VALUES)
        run.append(
            make_checkpoint(
                generation,
                step=draw(st.integers(0, 20)) * 50,
                metrics={} if value is None else {"eval_loss": value},
                kind=draw(st.sampled_from(Kind)),
                created=EPOCH + timedelta(minutes=draw(st.integers(-3000, 3000))),
                size=draw(st.integers(0, 10**12)),
                optimizer=draw(st.sampled_from([0, 1, 2 * 10**12])),
                state=draw(st.sampled_from([State.COMMITTED] * 4 + [State.SET_ASIDE, State.QUARANTINED])),
            )
        )
    return run


METRICS = st.builds(Metric, st.just("eval_loss"), st.sampled_from(["min", "max"]))
SMALL = st.integers(1, 6)
SMALL_RULES = st.one_of(
    st.builds(Best, SMALL, st.booleans()),
    SMALL.map(Latest),
    SMALL.map(lambda n: Every(n * 50)),
    SMALL.map(lambda n: Within(n * 3600)),
    SMALL.map(Hourly),
    SMALL.map(Daily),
    st.just(Pinned()),
)
POLICIES = st.builds(Policy, st.lists(SMALL_RULES, min_size=1, max_size=3).map(tuple) | RULE_TUPLES, METRICS)
PINS = st.frozensets(st.integers(0, 60), max_size=3)
PROTECTED = st.dictionaries(st.integers(0, 60), st.just("being uploaded"), max_size=3)


@given(runs(), POLICIES, PINS, PROTECTED)
def test_laws_of_every_plan(
    run: list[Checkpoint], policy: Policy, pinned: frozenset[int], protected: dict[int, str]
) -> None:
    plan = make_plan(run, policy, now=NOW, pinned=pinned, protected=protected)
    expected = sorted(generations(run))
    assert [decision.checkpoint.generation for decision in plan.decisions] == expected
    assert sorted(generations(plan.keep + plan.thin + plan.remove)) == expected
    assert plan.kept_bytes + plan.freed_bytes == sum(checkpoint.size_bytes for checkpoint in run)
    assert all(decision.reasons and all(decision.reasons) for decision in plan.decisions)
    removed = set(generations(plan.remove))
    thinned = set(generations(plan.thin))
    assert (removed | thinned).isdisjoint(pinned | protected.keys())
    assert all(checkpoint.thinnable for checkpoint in plan.thin)
    assert all(checkpoint.state is State.COMMITTED for checkpoint in plan.remove)


@given(runs(), POLICIES)
def test_law_2_the_newest_recovery_point_always_stays(run: list[Checkpoint], policy: Policy) -> None:
    kept = generations(make_plan(run, policy, now=NOW).keep)
    committed = [checkpoint for checkpoint in run if checkpoint.state is State.COMMITTED]
    candidates = [c for c in committed if c.kind is Kind.FULL] or committed
    if candidates:
        assert max(generations(candidates)) in kept


def test_a_plan_ranks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ranked: list[int] = []

    def counting(checkpoints: Sequence[Checkpoint], metric: Metric) -> tuple[Checkpoint, ...]:
        ranked.append(len(checkpoints))
        return rank(checkpoints, metric)

    monkeypatch.setattr(rules, "rank", counting)
    plan = make_plan(make_run([0.5, 0.4, 0.6]), Policy.from_spec("best:2,latest:1", LOSS), now=NOW)

    assert [decision.outcome for decision in plan.decisions] == [Outcome.KEEP, Outcome.KEEP, Outcome.KEEP]
    assert ranked == [3]


@given(runs(), POLICIES, st.randoms(use_true_random=False))
def test_order_of_input_does_not_matter_and_the_answer_is_the_same_again(
    run: list[Checkpoint], policy: Policy, shuffle: random.Random
) -> None:
    # NaN is unequal to itself, so a plan is compared by what it decides.
    def answer() -> list[tuple[int, Outcome, tuple[str, ...]]]:
        plan = make_plan(run, policy, now=NOW)
        return [(d.checkpoint.generation, d.outcome, d.reasons) for d in plan.decisions]

    first = answer()
    shuffle.shuffle(run)
    assert answer() == first


@given(runs(), POLICIES)
def test_a_plan_carried_out_leaves_nothing_to_remove(run: list[Checkpoint], policy: Policy) -> None:
    plan = make_plan(run, policy, now=NOW)
    left = [*plan.keep, *(checkpoint.thinned() for checkpoint in plan.thin)]
    again = make_plan(left, policy, now=NOW)
    assert not again.changes
    assert again.kept_bytes == plan.kept_bytes


@given(runs(), METRICS, st.sampled_from([Best, Latest, Hourly, Daily, Within]), SMALL, SMALL)
def test_a_larger_number_never_keeps_less(
    run: list[Checkpoint],
    metric: Metric,
    rule: type[Best] | type[Latest] | type[Hourly] | type[Daily] | type[Within],
    n: int,
    more: int,
) -> None:
    scale = 3600 if rule is Within else 1
    fewer = make_plan(run, Policy((rule(n * scale),), metric), now=NOW)
    larger = make_plan(run, Policy((rule((n + more) * scale),), metric), now=NOW)
    assert set(generations(larger.remove)) <= set(generations(fewer.remove))
    assert fewer.kept_bytes <= larger.kept_bytes


@given(runs(), METRICS)
def test_rank_agrees_with_better(run: list[Checkpoint], metric: Metric) -> None:
    ranked = rank(run, metric)
    for ahead, behind in pairwise(ranked):
        a, b = ahead.metrics["eval_loss"], behind.metrics["eval_loss"]
        assert not metric.better(b, a)
        assert metric.better(a, b) or ahead.generation < behind.generation


@given(runs(), METRICS, SMALL)
def test_one_that_is_no_better_takes_nobodys_place_among_the_best(
    run: list[Checkpoint], metric: Metric, k: int
) -> None:
    """As the stock Trainer replaces its best: only by what is better."""
    best = rank(run, metric)[:k]
    for as_good in best[-1:]:
        newer = replace(as_good, generation=max(c.generation for c in run) + 1)
        assert generations(rank([*run, newer], metric)[: len(best)]) == generations(best)
