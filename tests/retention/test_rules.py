"""Each retention rule by itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from msgspec.structs import replace

from keepstep.errors import PolicyError
from keepstep.model import Checkpoint, Kind, State
from keepstep.retention import All, Best, Context, Daily, Every, Hourly, Latest, Metric, Pinned, Rule, Within
from keepstep.retention.rules import format_duration, rule_classes
from tests.checkpoints import EPOCH, make_checkpoint, make_run

LOSS = Metric("eval_loss", "min")


def context(*checkpoints: Checkpoint, metric: Metric | None = LOSS, pinned: frozenset[int] = frozenset()) -> Context:
    return Context(checkpoints, metric, EPOCH + timedelta(days=1), pinned)


def test_best_keeps_the_k_best_with_rank_value_and_direction() -> None:
    kept = Best(2).keeps(context(*make_run([0.9, 0.4213, 0.5])))
    assert kept == {
        2: "best 1 of 2 by eval_loss (0.4213, lower is better)",
        3: "best 2 of 2 by eval_loss (0.5, lower is better)",
    }


def test_best_follows_the_direction_of_the_metric() -> None:
    run = make_run([0.9, 0.4, 0.5], metric="eval_f1")
    assert set(Best(1).keeps(context(*run, metric=Metric("eval_f1", "max")))) == {1}
    assert set(Best(1).keeps(context(*run, metric=Metric("eval_f1", "min")))) == {2}


def test_of_equal_values_the_earlier_generation_is_better() -> None:
    kept = Best(2).keeps(context(*make_run([0.5, 0.5, 0.5])))
    assert set(kept) == {1, 2}
    assert kept[1].startswith("best 1 of 2")


@pytest.mark.parametrize("mode", ["min", "max"])
def test_nan_and_missing_values_are_never_best(mode: Any) -> None:
    metric = Metric("eval_loss", mode)
    assert set(Best(4).keeps(context(*make_run([math.nan, 0.5, None, math.inf]), metric=metric))) == {2, 4}


def test_where_nothing_can_be_ranked_the_newest_stay() -> None:
    kept = Best(2).keeps(context(*make_run([math.nan, None, None])))
    assert kept == {2: "newest 2: none has eval_loss yet", 3: "newest 2: none has eval_loss yet"}
    assert set(Best(2).keeps(context(*make_run([0.5, None, None])))) == {1}


def test_best_ranks_weights_as_well_but_not_what_is_out_of_the_run() -> None:
    first, second, third = make_run([0.1, 0.2, 0.3])
    weights = replace(first, kind=Kind.WEIGHTS)
    quarantined = replace(second, state=State.QUARANTINED)
    assert set(Best(3).keeps(context(weights, quarantined, third))) == {1, 3}


def test_best_without_a_metric_keeps_nothing() -> None:
    assert Best(3).keeps(context(*make_run([0.1, 0.2]), metric=None)) == {}


def test_latest_counts_only_what_can_be_resumed_from() -> None:
    run = list(make_run([None] * 4))
    run[2] = replace(run[2], kind=Kind.WEIGHTS)
    assert Latest(2).keeps(context(*run)) == {4: "latest 1 of 2", 2: "latest 2 of 2"}


def test_latest_goes_by_generation_neither_by_step_nor_by_time() -> None:
    rewound = (
        make_checkpoint(1, step=900, created=EPOCH + timedelta(hours=9)),
        make_checkpoint(2, step=100, created=EPOCH),
    )
    assert set(Latest(1).keeps(context(*rewound))) == {2}


def test_every_keeps_multiples_but_not_step_zero() -> None:
    run = [make_checkpoint(generation, step) for generation, step in enumerate([0, 500, 1000, 1500, 2000])]
    assert Every(1000).keeps(context(*run)) == dict.fromkeys([2, 4], "milestone every 1000 steps")


def test_within_includes_its_edge_and_times_after_now() -> None:
    now = EPOCH + timedelta(days=1)
    ages = [timedelta(hours=6, seconds=1), timedelta(hours=6), timedelta(0), timedelta(minutes=-5)]
    run = [make_checkpoint(generation, created=now - age) for generation, age in enumerate(ages)]
    assert Within(6 * 3600).keeps(context(*run)) == dict.fromkeys([1, 2, 3], "within 6h")


def test_hourly_keeps_the_newest_of_each_of_the_last_hours_that_hold_one() -> None:
    times = ["11:10", "11:50", "13:00", "13:59", "17:30"]
    run = [
        make_checkpoint(generation, created=datetime.fromisoformat(f"2026-11-20T{time}+00:00"))
        for generation, time in enumerate(times)
    ]
    assert Hourly(2).keeps(context(*run)) == {
        4: "newest of hour 2026-11-20 17:00 UTC",
        3: "newest of hour 2026-11-20 13:00 UTC",
    }
    assert set(Hourly(9).keeps(context(*run))) == {1, 3, 4}


def test_daily_buckets_are_days_of_utc() -> None:
    east = timezone(timedelta(hours=9))
    run = [
        make_checkpoint(0, created=datetime(2026, 11, 19, 23, 30, tzinfo=UTC)),
        make_checkpoint(1, created=datetime(2026, 11, 20, 8, 59, tzinfo=east)),
        make_checkpoint(2, created=datetime(2026, 11, 20, 9, 0, tzinfo=east)),
    ]
    assert Daily(5).keeps(context(*run)) == {
        2: "newest of day 2026-11-20 UTC",
        1: "newest of day 2026-11-19 UTC",
    }


def test_pinned_and_all() -> None:
    run = make_run([0.1, 0.2, 0.3])
    assert Pinned().keeps(context(*run, pinned=frozenset({2, 99}))) == {2: "pinned"}
    assert set(All().keeps(context(*run))) == {1, 2, 3}


@pytest.mark.parametrize("value", [0, -1, 1.5, "3", None, True])
@pytest.mark.parametrize("rule", [Best, Latest, Every, Within, Hourly, Daily])
def test_numbers_are_whole_and_positive(rule: Callable[[Any], Rule], value: Any) -> None:
    with pytest.raises(PolicyError) as error:
        rule(value)
    assert repr(value) in error.value.message
    assert error.value.hint


@pytest.mark.parametrize("rule", rule_classes().values(), ids=rule_classes())
def test_every_rule_says_what_it_means_in_one_line(rule: type[Rule]) -> None:
    meaning = rule.meaning()
    assert meaning.endswith(".")
    assert not meaning.startswith(f"{rule.__name__}(")


@pytest.mark.parametrize(
    ("seconds", "text"), [(1, "1s"), (90, "90s"), (60, "1m"), (21600, "6h"), (86400, "1d"), (1209600, "2w")]
)
def test_durations_are_written_in_their_largest_unit(seconds: int, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_context_refuses_disorder_and_a_time_without_zone() -> None:
    first, second = make_run([None, None])
    with pytest.raises(ValueError, match="order of generation"):
        context(second, first)
    with pytest.raises(ValueError, match="time zone"):
        Context((first, second), None, datetime(2026, 11, 20))
