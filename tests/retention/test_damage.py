"""What is known to be damaged: it takes no place that a sound one could have, and is not removed for that."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepstep.model import Checkpoint, Damage
from keepstep.retention import DAMAGED, Hold, Metric, Outcome, Plan, Policy, fit, make_plan, rank
from tests.checkpoints import EPOCH, make_checkpoint, make_run

LOSS = Metric("eval_loss", "min")
NOW = EPOCH + timedelta(days=2)


def hurt(run: tuple[Checkpoint, ...], **damage: Damage) -> tuple[Checkpoint, ...]:
    """The run with damage by generation: g3=Damage.WEIGHTS."""
    return tuple(c.known(damage.get(f"g{c.generation}", Damage.NONE)) for c in run)


def plan(run: tuple[Checkpoint, ...], keep: str, **more: object) -> Plan:
    return make_plan(run, Policy.from_spec(keep, LOSS), now=NOW, **more)  # pyright: ignore[reportArgumentType]


def stays(found: Plan) -> list[int]:
    return [decision.checkpoint.generation for decision in found.decisions if decision.stays]


def hold(found: Plan, generation: int) -> Hold:
    return next(d.hold for d in found.decisions if d.checkpoint.generation == generation)


def test_the_next_best_takes_the_place_of_a_damaged_best() -> None:
    run = make_run([0.5, 0.2, 0.3, 0.4])
    assert stays(plan(run, "best:1,latest:1")) == [2, 4]

    found = plan(hurt(run, g2=Damage.WEIGHTS), "best:1,latest:1")

    assert stays(found) == [2, 3, 4]
    assert found.reasons(2) == (DAMAGED[Damage.WEIGHTS],)
    assert found.reasons(3) == ("best 1 of 1 by eval_loss (0.3, lower is better)",)


def test_one_whose_weights_hold_is_one_of_the_best_and_stays_whole() -> None:
    run = hurt((make_checkpoint(1, metrics={"eval_loss": 0.1}, optimizer=500), *make_run([0.5] * 4)[1:]),
               g1=Damage.RESUME)  # fmt: skip
    found = plan(run, "best:1,latest:1")
    assert stays(found) == [1, 4]
    assert found.decisions[0].outcome is Outcome.KEEP, "what of it is damaged is kept for a person to see"
    assert found.reasons(1)[-1] == DAMAGED[Damage.RESUME]


@pytest.mark.parametrize("damage", [Damage.RESUME, Damage.WEIGHTS])
@pytest.mark.parametrize(
    ("keep", "whole", "damaged"),
    [
        ("latest:2", [3, 4], [2, 3, 4]),
        ("hourly:1", [4], [3, 4]),
        ("daily:1", [4], [3, 4]),
    ],
)
def test_it_takes_no_place_by_its_age(damage: Damage, keep: str, whole: list[int], damaged: list[int]) -> None:
    run = make_run([0.1, 0.2, 0.3, 0.4])
    assert stays(plan(run, keep)) == whole
    found = plan(hurt(run, g4=damage), keep)
    assert stays(found) == damaged
    assert hold(found, 4) is Hold.ROOM


def test_an_hour_with_damaged_ones_alone_counts_for_none() -> None:
    run = tuple(make_checkpoint(n, created=EPOCH + timedelta(hours=n)) for n in (1, 2, 3))
    assert stays(plan(hurt(run, g3=Damage.RESUME), "hourly:2")) == [1, 2, 3]


def test_milestones_displace_nobody_and_stay_firm_while_their_weights_hold() -> None:
    run = hurt(make_run([0.1, 0.2, 0.3]), g1=Damage.RESUME, g2=Damage.WEIGHTS)
    found = plan(run, "every:100")
    assert [hold(found, generation) for generation in (1, 2)] == [Hold.MILESTONE, Hold.ROOM]


def test_where_the_ranked_are_damaged_the_newest_stay() -> None:
    run = hurt(make_run([0.1, None, None, None]), g1=Damage.WEIGHTS, g4=Damage.WEIGHTS)
    assert stays(plan(run, "best:2")) == [1, 2, 3, 4]


def test_the_recovery_point_is_the_newest_that_is_sound() -> None:
    run = hurt(make_run([0.1, 0.2, 0.3]), g3=Damage.RESUME)
    found = plan(run, "best:1")
    assert (hold(found, 2), hold(found, 3)) == (Hold.LAW, Hold.ROOM)
    found = plan(hurt(run, g1=Damage.WEIGHTS, g2=Damage.WEIGHTS, g3=Damage.WEIGHTS), "best:1")
    assert hold(found, 3) is Hold.LAW, "something is left, whatever it is"


def test_a_pin_on_a_damaged_one_holds_and_is_said() -> None:
    found = plan(hurt(make_run([0.1, 0.2]), g1=Damage.WEIGHTS), "latest:1", pinned=[1])
    assert found.reasons(1) == ("pinned", DAMAGED[Damage.WEIGHTS])
    assert hold(found, 1) is Hold.LAW


def test_under_pressure_the_damaged_go_first_and_the_next_best_never() -> None:
    run = hurt(make_run([0.5, 0.1, 0.3, 0.4]), g2=Damage.WEIGHTS)
    found = fit(plan(run, "all"), 3000, LOSS, why="full")
    assert stays(found) == [1, 3, 4]
    assert found.reasons(2) == ("full: the oldest that is damaged",)
    assert stays(fit(plan(run, "all"), -1, LOSS, why="full")) == [3, 4]


def test_what_is_asked_for_as_damaged_is_ranked_too() -> None:
    run = hurt(make_run([0.5, 0.1]), g2=Damage.WEIGHTS)
    assert [c.generation for c in rank(run, LOSS)] == [1]
    assert [c.generation for c in rank(run, LOSS, spoiled=True)] == [2, 1]


SPECS = ["best:1", "best:2,latest:1", "latest:2", "hourly:2", "daily:1,best:1:full", "every:200", "within:1d", "all"]


@given(
    values=st.lists(st.sampled_from([None, 0.1, 0.2, 0.3, float("nan")]), min_size=1, max_size=8),
    damage=st.lists(st.sampled_from(list(Damage)), min_size=8, max_size=8),
    keep=st.sampled_from(SPECS),
)
def test_damage_never_costs_a_sound_one(values: list[float | None], damage: list[Damage], keep: str) -> None:
    run = make_run(values)
    known = tuple(c.known(what) for c, what in zip(run, damage, strict=False))
    before, after = plan(run, keep), plan(known, keep)
    sound = {c.generation for c in known if not c.damage}

    assert sound & set(stays(before)) <= set(stays(after))
    assert {c.generation for c in known if c.damage} <= set(stays(after)), "none of them goes without being asked for"
    assert not {c.generation for c in after.thin if c.damage}
