"""Plans under pressure: the order of what is given up, and laws that hold for any run and any limit."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from keepstep.model import Checkpoint, Kind, State
from keepstep.retention import Metric, Outcome, Plan, Policy, entries, fit, make_plan, rank, size, without_aside
from tests.checkpoints import EPOCH, make_checkpoint
from tests.retention.test_plan import LOSS, METRICS, PINS, POLICIES, PROTECTED, runs

NOW = EPOCH + timedelta(hours=9)
ORDER = {Outcome.REMOVE: 0, Outcome.THIN: 1, Outcome.KEEP: 2}
WHY = "over the budget of 5 kB"


def run_of(*losses: float | None) -> list[Checkpoint]:
    """Weights of 100 bytes and 200 of optimizer each; steps are hundreds."""
    return [
        make_checkpoint(g, metrics={} if loss is None else {"eval_loss": loss}, size=100, optimizer=200)
        for g, loss in enumerate(losses, start=1)
    ]


def outcomes(plan: Plan) -> str:
    """A letter for each checkpoint: kept, thinned, removed."""
    return "".join({"keep": "k", "thin": "t", "remove": "-"}[d.outcome.value] for d in plan.decisions)


def sequence(
    run: list[Checkpoint], spec: str, metric: Metric | None = LOSS, pinned: frozenset[int] = frozenset()
) -> list[str]:
    """What is left as the limit falls to nothing, each different answer once."""
    plan = make_plan(run, Policy.from_spec(spec, metric), now=NOW, pinned=pinned)
    found = [outcomes(fit(plan, limit, metric, why=WHY)) for limit in range(plan.kept_bytes, -1, -1)]
    return list(dict.fromkeys(found))


def test_what_is_given_up_in_order() -> None:
    run = run_of(0.1, 0.3, 0.2, 0.9, 0.8, 0.7, 0.6)
    assert sequence(run, "best:3:full,every:400,latest:2") == [
        "kkkk-kk",
        "tkkk-kk",  # the oldest of those kept for quality only is thinned
        "ttkk-kk",
        "tttk-kk",
        "t-tk-kk",  # the lowest-ranked of the best
        "t--k-kk",
        "t----kk",  # the milestone
        "t-----k",  # the oldest of the latest; the best and the newest stay
    ]


def test_what_serves_two_ends_goes_with_the_firmer_one() -> None:
    run = run_of(0.3, 0.1, 0.2, 0.4)
    assert sequence(run, "best:2:full,every:300,latest:1") == ["-kkk", "-tkk", "-t-k"]


def test_the_one_best_is_thinned_before_it_could_go() -> None:
    assert sequence(run_of(0.5, 0.1, 0.2), "latest:3") == ["kkk", "-kk", "-tk"]
    assert sequence(run_of(0.5, 0.1, 0.2), "every:100") == ["kkk", "-kk", "-tk"]
    assert sequence(run_of(None, None, None), "latest:3", None) == ["kkk", "-kk", "--k"]


def test_what_is_kept_because_there_is_room_goes_first() -> None:
    run = run_of(0.1, 0.3, 0.2, 0.9, 0.8)
    assert sequence(run, "all,best:2,latest:2") == ["kkkkk", "k-kkk", "t-kkk", "t-tkk", "t--kk", "t---k"]
    assert sequence(run, "all") == ["kkkkk", "k-kkk", "k--kk", "k---k", "t---k"]
    assert sequence(run, "all", None) == ["kkkkk", "-kkkk", "--kkk", "---kk", "----k"]


def test_pins_are_never_given_up() -> None:
    assert sequence(run_of(0.5, 0.1, 0.2), "latest:1", pinned=frozenset({1})) == ["k-k"]


def test_each_step_has_its_reason() -> None:
    plan = make_plan(run_of(0.1, 0.3, 0.2, 0.9), Policy.from_spec("best:3:full,latest:1", LOSS), now=NOW)
    tight = fit(plan, 600, LOSS, why=WHY)
    assert tight.kept_bytes == 600
    assert outcomes(tight) == "tttk"
    assert tight.reasons(1)[0] == f"{WHY}: thinned, kept for quality only"
    assert tight.reasons(1)[1].startswith("best 1 of 3")
    tighter = fit(plan, 599, LOSS, why=WHY)
    assert tighter.reasons(2) == (f"{WHY}: the lowest-ranked of the best",)


def test_without_thinning_whole_ones_go() -> None:
    plan = make_plan(run_of(0.1, 0.3, 0.2, 0.9), Policy.from_spec("best:3,latest:1", LOSS), now=NOW)
    assert outcomes(plan) == "tttk"
    assert outcomes(fit(plan, 900, LOSS, why=WHY, may_thin=False)) == "k-kk"


def test_inodes_are_counted_as_well() -> None:
    checkpoint = run_of(0.1)[0]
    assert (size(checkpoint), entries(checkpoint)) == (300, 4)
    plan = make_plan(run_of(0.1, 0.3, 0.2), Policy.from_spec("latest:3", LOSS), now=NOW)
    assert outcomes(fit(plan, 8, LOSS, why=WHY, measure=entries)) == "t-k"


LIMITS = st.integers(0, 10**13) | st.sampled_from([0, 1, 10**12])


def plan_of(run: list[Checkpoint], policy: Policy, pinned: frozenset[int], protected: dict[int, str]) -> Plan:
    return make_plan(run, policy, now=NOW, pinned=pinned, protected=protected)


@given(runs(), POLICIES, st.tuples(PINS, PROTECTED), LIMITS, st.booleans())
def test_laws_under_any_pressure(
    run: list[Checkpoint], policy: Policy, held: tuple[frozenset[int], dict[int, str]], limit: int, thin: bool
) -> None:
    pinned, protected = held
    plan = plan_of(run, policy, pinned, protected)
    tight = fit(plan, limit, policy.metric, why=WHY, may_thin=thin)
    everything = [c.generation for c in (*tight.keep, *tight.thin, *tight.remove)]
    assert sorted(everything) == sorted(c.generation for c in run)
    kept = {c.generation for c in tight.keep}
    assert kept >= {c.generation for c in run if c.generation in pinned | protected.keys()}
    assert kept >= {c.generation for c in run if c.state is not State.COMMITTED}
    committed = [c for c in run if c.state is State.COMMITTED]
    candidates = [c for c in committed if c.kind is Kind.FULL] or committed
    if candidates:
        assert max(c.generation for c in candidates) in kept
    assert policy.metric is not None
    staying = rank((d.checkpoint for d in plan.decisions if d.stays), policy.metric)
    if staying:
        assert staying[0].generation not in {c.generation for c in tight.remove}
    assert all(c.thinnable for c in tight.thin)
    assert all(d.reasons for d in tight.decisions)
    exhausted = fit(plan, -1, policy.metric, why=WHY, may_thin=thin)
    assert tight.kept_bytes <= limit or outcomes(tight) == outcomes(exhausted)


@given(runs(), POLICIES, LIMITS, LIMITS)
def test_a_larger_budget_never_keeps_less(run: list[Checkpoint], policy: Policy, one: int, other: int) -> None:
    plan = plan_of(run, policy, frozenset(), {})
    tight = fit(plan, min(one, other), policy.metric, why=WHY)
    wide = fit(plan, max(one, other), policy.metric, why=WHY)
    for less, more in zip(tight.decisions, wide.decisions, strict=True):
        assert ORDER[less.outcome] <= ORDER[more.outcome]


@given(runs(), POLICIES)
def test_a_plan_that_fits_stays_as_it_is(run: list[Checkpoint], policy: Policy) -> None:
    plan = plan_of(run, policy, frozenset(), {})
    assert fit(plan, plan.kept_bytes, policy.metric, why=WHY) == plan


@given(runs(), METRICS, LIMITS, st.randoms(use_true_random=False))
def test_the_same_input_gives_the_same_plan(
    run: list[Checkpoint], metric: Metric, limit: int, shuffle: random.Random
) -> None:
    policy = Policy.from_spec("best:3:full,latest:2,every:100", metric)
    first = outcomes(fit(plan_of(run, policy, frozenset(), {}), limit, metric, why=WHY))
    shuffle.shuffle(run)
    assert outcomes(fit(plan_of(run, policy, frozenset(), {}), limit, metric, why=WHY)) == first


@given(runs(), POLICIES, LIMITS)
def test_what_was_given_up_is_not_asked_for_twice(run: list[Checkpoint], policy: Policy, limit: int) -> None:
    tight = fit(plan_of(run, policy, frozenset(), {}), limit, policy.metric, why=WHY)
    left = [*tight.keep, *(checkpoint.thinned() for checkpoint in tight.thin)]
    again = fit(plan_of(left, policy, frozenset(), {}), limit, policy.metric, why=WHY)
    assert again.kept_bytes <= tight.kept_bytes == sum(checkpoint.size_bytes for checkpoint in left)
    if tight.kept_bytes <= limit:
        assert {c.generation for c in again.remove} == {
            c.generation for c in plan_of(left, policy, frozenset(), {}).remove
        }


def aside_of(plan: Plan) -> str:
    return "".join("k" if decision.stays else "-" for decision in plan.aside)


def lying_aside() -> list[Checkpoint]:
    """Of 300 bytes each, in no order; two are of one generation."""
    states = [(5, State.QUARANTINED), (4, State.SET_ASIDE), (2, State.QUARANTINED), (3, State.SET_ASIDE)]
    found = [make_checkpoint(g, size=100, optimizer=200, state=state) for g, state in [*states, (3, State.SET_ASIDE)]]
    return [replace(checkpoint, path=Path(f"place-{number}")) for number, checkpoint in enumerate(found)]


def test_what_lies_aside_goes_first_and_the_oldest_of_it() -> None:
    plan = make_plan(run_of(0.1, 0.2), Policy.from_spec("all", LOSS), aside=lying_aside(), now=NOW)
    found = [fit(plan, limit, LOSS, why=WHY) for limit in range(plan.taken_bytes, -1, -1)]

    assert [str(d.checkpoint.path) for d in plan.aside] == ["place-3", "place-4", "place-1", "place-2", "place-0"]
    assert list(dict.fromkeys((aside_of(tight), outcomes(tight)) for tight in found)) == [
        ("kkkkk", "kk"),
        ("-kkkk", "kk"),  # set aside, oldest first; of one generation by place
        ("--kkk", "kk"),
        ("---kk", "kk"),
        ("----k", "kk"),  # then quarantine
        ("-----", "kk"),
        ("-----", "tk"),  # only then what is good
    ]
    assert found[-1].aside[0].reasons == (f"{WHY}: the oldest that a rewind set aside",)
    assert found[-1].aside[-1].reasons == (f"{WHY}: the oldest in quarantine, found damaged",)


def test_what_is_pinned_stays_where_it_lies() -> None:
    policy = Policy.from_spec("all", LOSS)
    plan = make_plan(run_of(0.1), policy, aside=lying_aside(), now=NOW, pinned=frozenset({3, 5}))

    for tight in (fit(plan, 0, LOSS, why=WHY), without_aside(plan, State, "asked for")):
        assert [(d.checkpoint.generation, d.stays) for d in tight.aside] == [
            (3, True), (3, True), (4, False), (2, False), (5, True),
        ]  # fmt: skip


def test_what_is_asked_for_goes_by_its_state() -> None:
    plan = make_plan(run_of(0.1), Policy.from_spec("all", LOSS), aside=lying_aside(), now=NOW)
    assert aside_of(without_aside(plan, [], "asked for")) == "kkkkk"
    assert aside_of(without_aside(plan, [State.SET_ASIDE], "asked for")) == "---kk"
    assert aside_of(without_aside(plan, [State.QUARANTINED], "asked for")) == "kkk--"
    dropped = without_aside(plan, State, "asked for")
    assert (dropped.freed_bytes, dropped.kept_bytes, dropped.taken_bytes) == (5 * 300, 300, 6 * 300)
    assert dropped.changes and not plan.changes


@given(runs(), POLICIES, LIMITS, LIMITS)
def test_a_larger_budget_keeps_no_less_aside(run: list[Checkpoint], policy: Policy, one: int, other: int) -> None:
    plan = make_plan(run, policy, aside=lying_aside(), now=NOW)
    tight, wide = (fit(plan, limit, policy.metric, why=WHY) for limit in sorted((one, other)))
    assert all(more.stays or not less.stays for less, more in zip(tight.aside, wide.aside, strict=True))
    for found in (tight, wide):
        changed = outcomes(found) != outcomes(plan)
        assert not changed or aside_of(found) == "-----", "nothing good goes while anything lies aside"


def previous() -> list[Checkpoint]:
    """Of 300 bytes each, in no order: run b ended before run a did, whose first checkpoint is older."""
    places = [("a", 2, 9), ("b", 2, 8), ("a", 1, 1), ("b", 1, 7)]
    return [
        make_checkpoint(
            g, size=100, optimizer=200, state=State.PREVIOUS, run_id=run, created=EPOCH + timedelta(hours=hours)
        )
        for run, g, hours in places
    ]


def named(plan: Plan) -> list[tuple[str, int]]:
    return [(d.checkpoint.run_id, d.checkpoint.generation) for d in plan.aside if d.stays]


def test_previous_runs_go_before_all_else_and_the_oldest_run_first() -> None:
    own = run_of(0.1, 0.2)
    plan = make_plan(own, Policy.from_spec("all", LOSS), aside=[*lying_aside(), *previous()], now=NOW)
    found = [fit(plan, limit, LOSS, why=WHY) for limit in range(plan.taken_bytes, -1, -1)]

    left = [(*named(tight)[:-5], aside_of(tight)[4:], outcomes(tight)) for tight in found if len(named(tight)) > 4]
    b1, b2, a1, a2 = ("b", 1), ("b", 2), ("a", 1), ("a", 2)
    assert list(dict.fromkeys(left)) == [
        (b1, b2, a1, a2, "kkkkk", "kk"),
        (b2, a1, a2, "kkkkk", "kk"),
        (a1, a2, "kkkkk", "kk"),
        (a2, "kkkkk", "kk"),
        ("kkkkk", "kk"),  # only then what a rewind set aside
    ]
    assert found[-1].aside[0].reasons == (f"{WHY}: the oldest of what a fresh start set aside, of the previous run b",)
    assert plan.aside[0].reasons == ("of a previous run: kept while there is room",)
    assert plan.taken_bytes == (2 + 5 + 4) * 300


def test_what_is_held_in_a_previous_run_stays_and_the_runs_own_pins_are_not_its() -> None:
    plan = make_plan(
        run_of(0.1), Policy.from_spec("all", LOSS), aside=previous(), now=NOW,
        pinned=frozenset({2}), held_before={("b", 1): "pinned", ("c", 2): "pinned"},
    )  # fmt: skip
    for tight in (fit(plan, 0, LOSS, why=WHY), without_aside(plan, State, "asked for")):
        assert named(tight) == [("b", 1)]
        assert tight.aside[0].reasons == ("pinned", "of a previous run: kept while there is room")
    dropped = without_aside(plan, [State.PREVIOUS], "asked for")
    assert dropped.aside[-1].reasons == ("asked for: of a previous run, a",)
    assert len(named(without_aside(plan, [State.SET_ASIDE, State.QUARANTINED], "asked for"))) == 4


@given(runs(), POLICIES, LIMITS, st.randoms(use_true_random=False))
def test_nothing_of_the_run_goes_while_a_previous_one_is_there(
    run: list[Checkpoint], policy: Policy, limit: int, shuffle: random.Random
) -> None:
    lying = [*lying_aside(), *previous()]
    plan = make_plan(run, policy, aside=lying, now=NOW)
    shuffle.shuffle(lying)
    assert make_plan(run, policy, aside=lying, now=NOW) == plan
    tight = fit(plan, limit, policy.metric, why=WHY)
    before = [d.stays for d in tight.aside if d.checkpoint.state is State.PREVIOUS]
    assert before == sorted(before), "in turn"
    rest = [d.stays for d in tight.aside if d.checkpoint.state is not State.PREVIOUS]
    assert not any(before) or (all(rest) and outcomes(tight) == outcomes(plan))
