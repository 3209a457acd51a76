"""Tests of what would remove a checkpoint: each condition is carried out on paper and must hold to the last one."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from keepstep.errors import CheckpointNotFound
from keepstep.model import Checkpoint, Kind
from keepstep.operations.seeing.listing import Row
from keepstep.operations.seeing.showing import show, what_removes
from keepstep.retention import Context, Metric, Policy, make_plan
from tests.checkpoints import EPOCH, make_checkpoint
from tests.checkpoints import make_run as checkpoints_of
from tests.operations.runs import SIZE, make_run

NOW = EPOCH + timedelta(hours=3)
LOSS = Metric("eval_loss", "min")


def conditions(
    checkpoints: tuple[Checkpoint, ...], generation: int, policy: Policy, pinned: frozenset[int] = frozenset()
) -> tuple[str, ...]:
    plan = make_plan(checkpoints, policy, now=NOW, pinned=pinned)
    decision = next(d for d in plan.decisions if d.checkpoint.generation == generation)
    row = Row(decision.checkpoint, decision.stays, decision.reasons, "committed", False, (), False, False)
    return what_removes(row, policy, Context(checkpoints, policy.metric, NOW, pinned))


def kept_after(
    checkpoints: tuple[Checkpoint, ...], more: list[Checkpoint], generation: int, policy: Policy, now: datetime = NOW
) -> bool:
    plan = make_plan([*checkpoints, *more], policy, now=now)
    return generation in [c.generation for c in plan.keep]


def newer(number: int, metrics: dict[str, float] | None = None) -> list[Checkpoint]:
    return [make_checkpoint(100 + i, metrics=metrics, created=NOW) for i in range(number)]


@pytest.mark.parametrize("generation", [1, 2, 3, 4])
@pytest.mark.parametrize(("mode", "word"), [("min", "below"), ("max", "above")])
def test_as_many_better_ones_as_it_says(generation: int, mode: str, word: str) -> None:
    checkpoints = (*checkpoints_of([0.4, 0.2, 0.3, 0.1]), make_checkpoint(5))
    policy = Policy.from_spec("best:4", Metric("eval_loss", mode))  # type: ignore[arg-type]

    (text,) = conditions(checkpoints, generation, policy)

    value = checkpoints[generation - 1].metrics["eval_loss"]
    match = re.fullmatch(rf"(\d) newer checkpoints? with eval_loss {word} {value}", text)
    assert match, text
    number = int(match[1])
    better = {"eval_loss": value - 0.01 if mode == "min" else value + 0.01}
    assert kept_after(checkpoints, newer(number + 2, {"eval_loss": value}), generation, policy), "as good is not enough"
    assert kept_after(checkpoints, newer(number - 1, better), generation, policy)
    assert not kept_after(checkpoints, newer(number, better), generation, policy)


@pytest.mark.parametrize("generation", [2, 3])
def test_as_many_newer_ones_as_it_says(generation: int) -> None:
    checkpoints = checkpoints_of([None, None, None, None])
    policy = Policy.from_spec("latest:3")

    (text,) = conditions(checkpoints, generation, policy)

    match = re.fullmatch(r"(\d) newer full checkpoints?", text)
    assert match, text
    number = int(match[1])
    assert kept_after(checkpoints, newer(number - 1), generation, policy)
    assert not kept_after(checkpoints, newer(number), generation, policy)


def test_weights_only_ones_do_not_push_out_a_full_one() -> None:
    checkpoints = checkpoints_of([None, None])
    (text,) = conditions(checkpoints, 1, Policy.from_spec("latest:2"))
    weights = [replace(c, kind=Kind.WEIGHTS) for c in newer(5)]

    assert text == "1 newer full checkpoint"
    assert kept_after(checkpoints, weights, 1, Policy.from_spec("latest:2"))


def test_the_newest_goes_only_when_all_conditions_are_met() -> None:
    checkpoints = checkpoints_of([0.3, 0.2])
    policy = Policy.from_spec("best:1,latest:2", LOSS)

    found = conditions(checkpoints, 2, policy)

    assert found == (
        "1 newer checkpoint with eval_loss below 0.2",
        "2 newer full checkpoints",
        "1 newer full checkpoint that takes its place as the newest",
    )
    assert kept_after(checkpoints, newer(1, {"eval_loss": 0.1}), 2, policy)
    assert not kept_after(checkpoints, newer(2, {"eval_loss": 0.1}), 2, policy)


def test_time_alone_ends_within() -> None:
    checkpoints = checkpoints_of([None, None])
    policy = Policy.from_spec("within:3h")

    (text,) = conditions(checkpoints, 1, policy)

    assert text == "time alone: after 2026-11-20 15:10:00 UTC"
    end = datetime.fromisoformat("2026-11-20T15:10:00+00:00")
    assert kept_after(checkpoints, [], 1, policy, now=end)
    assert not kept_after(checkpoints, [], 1, policy, now=end + timedelta(seconds=1))


def test_hours_and_days_count_those_to_come() -> None:
    checkpoints = (
        make_checkpoint(1, created=NOW - timedelta(hours=2)),
        make_checkpoint(2, created=NOW - timedelta(hours=1)),
    )
    policy = Policy.from_spec("hourly:3")

    (text,) = conditions(checkpoints, 1, policy)

    assert text == "newer checkpoints in 2 more hours (UTC)"
    later = [make_checkpoint(100 + i, created=NOW + timedelta(hours=i)) for i in range(2)]
    assert kept_after(checkpoints, later[:1], 1, policy)
    assert not kept_after(checkpoints, later, 1, policy)


def test_in_the_present_hour_one_newer_is_enough() -> None:
    checkpoints = (make_checkpoint(1, created=NOW), make_checkpoint(2, kind=Kind.WEIGHTS, created=NOW))
    policy = Policy.from_spec("daily:2")

    text = conditions(checkpoints, 2, policy)[0]

    assert text == "a newer checkpoint in this day (UTC), or newer checkpoints in 2 more days (UTC)"
    assert not kept_after(checkpoints, newer(1), 2, policy)


@pytest.mark.parametrize("spec", ["all", "every:100"])
def test_what_no_newer_checkpoint_changes_says_so(spec: str) -> None:
    checkpoints = checkpoints_of([None, None])
    policy = Policy.from_spec(spec)

    (text,) = conditions(checkpoints, 1, policy)

    assert text == f"a policy without '{spec}': newer checkpoints don't change it"
    assert kept_after(checkpoints, newer(50), 1, policy)


def test_pins_end_by_unpinning() -> None:
    checkpoints = checkpoints_of([None, None])
    policy = Policy.from_spec("latest:1")
    assert conditions(checkpoints, 1, policy, frozenset({1})) == ("unpinning it: keepstep unpin RUN 100",)


def test_show_tells_place_and_files(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 0.5, 2: 0.3, 3: 0.4})

    details = show(run, "1")

    assert (details.place, details.ranked) == (3, 3)
    shown = details.to_json()
    assert shown["rank"] == 3
    assert [file["path"] for file in shown["files"]] == ["model.safetensors", "optimizer.pt"]
    assert sum(file["size_bytes"] for file in shown["files"]) == SIZE
    assert shown["written_by"] == {"torch": "2.0", "keep": "all", "metric": "eval_loss", "mode": "min"}
    with pytest.raises(CheckpointNotFound):
        show(run, "7")
