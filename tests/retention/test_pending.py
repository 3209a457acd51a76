"""A checkpoint whose evaluation is still to come: how long it stays for want of a value."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest

from keepstep.errors import PolicyError
from keepstep.model import Damage
from keepstep.retention import Context, Hold, Metric, Outcome, Pending, Plan, Policy, fit, make_plan
from tests.checkpoints import EPOCH, make_checkpoint, make_run

LOSS = Metric("eval_loss", "min")
RUN = make_run([0.5, 0.4, None, 0.3, None, None])
"""Saved every ten minutes."""


def plan(keep: str, minutes: int = 60, *, later: bool = False) -> Plan:
    now = EPOCH + timedelta(minutes=minutes)
    return make_plan(RUN, Policy.from_spec(keep, LOSS), now=now, evaluated_later=later)


def stays(found: Plan) -> list[int]:
    return [decision.checkpoint.generation for decision in found.decisions if decision.stays]


def test_what_has_no_value_stays_until_the_time_is_over() -> None:
    assert stays(plan("best:1,latest:1")) == [4, 6]
    assert stays(plan("best:1,latest:1,pending:30m")) == [3, 4, 5, 6]
    assert stays(plan("best:1,latest:1,pending:30m", 61)) == [4, 5, 6]
    assert stays(plan("best:1,latest:1,pending:30m", 91)) == [4, 6]


def test_the_reason_says_what_it_waits_for_and_that_it_did_not_come() -> None:
    assert plan("best:1,latest:1,pending:30m").reasons(3) == ("eval_loss may still come, within 30m of the save",)
    gone = plan("best:1,latest:1,pending:30m", 91)
    assert gone.reasons(3) == ("not ranked: no eval_loss, none came within 30m; not the newest",)
    assert gone.reasons(2) == ("rank 2 of 3 by eval_loss; not the best, not the newest",)


def test_it_stays_whole_by_its_name_and_one_with_a_value_is_thinned() -> None:
    run = tuple(make_checkpoint(n, metrics={} if n == 2 else {"eval_loss": n}, optimizer=500) for n in (1, 2, 3))
    found = make_plan(run, Policy.from_spec("best:1,latest:1,pending:1h", LOSS), now=EPOCH)
    assert [d.outcome for d in found.decisions] == [Outcome.THIN, Outcome.KEEP, Outcome.KEEP]


def test_nan_is_a_value_and_damage_is_not_waited_for() -> None:
    run = make_run([math.nan, None, None])
    context = Context((run[0], run[1].known(Damage.WEIGHTS), run[2]), LOSS, EPOCH)
    assert set(Pending(60).keeps(context)) == {3}
    assert Pending(60).keeps(Context(run, None, EPOCH)) == {}


def test_it_needs_a_metric() -> None:
    with pytest.raises(PolicyError, match="no metric is named"):
        Policy.from_spec("latest:1,pending:1h")


def test_where_values_come_after_the_saves_six_hours_are_waited_unless_the_policy_says_more() -> None:
    assert stays(plan("best:1,latest:1", later=True)) == [3, 4, 5, 6]
    assert stays(plan("best:1,latest:1", 6 * 60 + 31, later=True)) == [4, 5, 6]
    assert stays(plan("best:1,latest:1,pending:10m", later=True)) == [4, 5, 6]
    assert stays(plan("latest:1", later=True)) == [6], "what does not rank waits for no value"


def test_under_pressure_what_waits_goes_before_the_ranked_and_the_best_never() -> None:
    found = plan("best:2,latest:1,pending:1h")
    assert {d.hold for d in found.decisions[2:3]} == {Hold.QUALITY}
    tight = fit(found, 3000, LOSS, why="full")
    assert stays(tight) == [2, 4, 6]
    assert tight.reasons(3) == ("full: the oldest that waits for its evaluation",)


def test_in_words() -> None:
    policy = Policy.from_spec("best:2,pending:6h", LOSS)
    text = "the best 2 by eval_loss (lower is better), plus what has no eval_loss yet, for 6h and the newest"
    assert policy.describe() == text
