"""A policy on trial and its application: the plan shown is the plan carried out, or nothing is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keepstep.run import Run
from tests.operations.runs import flip, make_run
from tests.web.conftest import Page, Start
from tests.web.runs import training

LOSSES = {1: 0.5, 2: 0.3, 3: 0.4, 4: 0.6, 5: 0.7}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "root" / "a", LOSSES, keep="all")


@pytest.fixture
def page(start: Start, run: Run) -> Page:
    return start(run.path.parent, writable=True)


def plan(page: Page, **query: object) -> dict[str, Any]:
    return page.get(f"/api/runs/{page.key('a')}/plan", **query)  # type: ignore[return-value]


def apply(page: Page, shown: dict[str, Any], status: int = 200, **more: object) -> Any:
    body = {"keep": shown["keep"], "budget": None, "digest": shown["digest"], **more}
    return page.post(f"/api/runs/{page.key('a')}/apply", body, status)


def steps(run: Run) -> list[int]:
    return [one.step for one in Run.open(run.path).checkpoints]


def test_a_plan_has_a_decision_and_a_reason_for_each(page: Page) -> None:
    shown = plan(page, keep="best:1:full,latest:1")
    actions = {row["step"]: row["action"] for row in shown["rows"]}
    assert actions == {1: "remove", 2: "keep", 3: "remove", 4: "remove", 5: "keep"}
    assert all(row["reasons"] for row in shown["rows"]) and shown["changes"] == [1, 3, 4]
    assert shown["freed_bytes"] == 3_000 and shown["kept_bytes"] == 2_000
    assert plan(page)["changes"] == [] and plan(page)["keep"] == "all"


def test_a_budget_gives_up_in_order(page: Page) -> None:
    shown = plan(page, keep="all", budget="0.0025 MB")
    assert shown["kept_bytes"] <= 2_500 == shown["budget_bytes"] and shown["fits"]
    assert not plan(page, keep="all", budget="0.0001 MB")["fits"]


def test_what_lies_aside_is_part_of_the_plan_that_is_shown_and_goes_first(page: Page, run: Run) -> None:
    with run.writing():
        run.rewind(run.checkpoints[3])
    shown = plan(page, budget="0.0045 MB")
    assert [(row["step"], row["state"], row["action"]) for row in shown["aside"]] == [(5, "set aside", "remove")]
    assert {row["action"] for row in shown["rows"]} == {"keep"}
    assert shown["fits"] and shown["freed_bytes"] == 1_000 and plan(page)["kept_aside_bytes"] == 1_000
    done = apply(page, shown, budget="0.0045 MB")
    assert [(one["step"], one["what"]) for one in done["done"]] == [(5, "removed")]
    assert run.aside == () and steps(run) == [1, 2, 3, 4]


@pytest.mark.parametrize("query", [{"keep": "best"}, {"keep": "x:1"}, {"budget": "5"}, {"budget": "lots"}])
def test_what_can_not_be_understood_is_told_with_a_way_out(page: Page, query: dict[str, str]) -> None:
    error = page.get(f"/api/runs/{page.key('a')}/plan", 400, **query)["error"]
    assert error["message"] and error["hint"]


def test_what_was_shown_is_carried_out(page: Page, run: Run) -> None:
    done = apply(page, plan(page, keep="best:1:full,latest:1"))
    assert {(one["step"], one["what"]) for one in done["done"]} == {(1, "removed"), (3, "removed"), (4, "removed")}
    assert done["freed_bytes"] == 3_000 and steps(run) == [2, 5]
    assert Run.open(run.path).file.keep == "all"
    reasons = {event["step"]: event["reason"] for event in run.events.read() if event["event"] == "removed"}
    assert reasons[1] == "rank 3 of 5 by eval_loss; not the best, not the newest"


def test_the_policy_can_be_put_in_force(page: Page, run: Run) -> None:
    shown = plan(page, keep="latest:2", budget="1 GB")
    apply(page, shown, budget="1 GB", set_policy=True)
    reopened = Run.open(run.path)
    assert (reopened.file.keep, reopened.limits.budget) == ("latest:2", 10**9) and steps(run) == [4, 5]
    assert page.get(f"/api/runs/{page.key('a')}")["policy"]["keep"] == "latest:2"
    assert plan(page)["changes"] == []


def test_a_page_that_only_reads_changes_nothing(start: Start, run: Run) -> None:
    page = start(run.path.parent)
    assert apply(page, plan(page, keep="latest:1"), 403)["error"]["code"] == "read-only"
    assert steps(run) == list(LOSSES)


def test_a_plan_that_changed_is_not_carried_out(page: Page, run: Run) -> None:
    shown = plan(page, keep="latest:1")
    run.pin_board.pin(run.checkpoints[0].generation)
    assert apply(page, shown, 409)["error"]["code"] == "plan-changed"
    assert apply(page, plan(page, keep="latest:2") | {"keep": "latest:1"}, 409)["error"]["code"] == "plan-changed"
    assert apply(page, {"keep": "latest:1", "digest": ""}, 409)["error"]["code"] == "plan-changed"
    assert steps(run) == list(LOSSES)


def test_a_run_in_training_is_left_to_its_training(start: Start, tmp_path: Path) -> None:
    with training(tmp_path / "root" / "a", "latest:5") as trained:
        trained.go(500)
        page = start(tmp_path / "root", writable=True)
        assert apply(page, plan(page, keep="latest:1"), 409)["error"]["code"] == "run-locked"
        assert len(trained.run.checkpoints) == 5
        assert trained.run.lock.held


def test_a_damaged_recovery_point_stops_it(page: Page, run: Run) -> None:
    shown = plan(page, keep="latest:1")
    flip(run.path / "checkpoint-5" / "optimizer.pt")
    assert apply(page, shown, 409)["error"]["code"] == "checkpoint-corrupt"
    assert steps(run) == list(LOSSES)


@pytest.mark.parametrize(
    "body",
    [{}, {"digest": 1}, {"digest": "x", "keep": 1}, {"digest": "x", "budget": []}, {"digest": "x", "set_policy": 1}],
)
def test_fields_of_another_kind_are_refused(page: Page, run: Run, body: dict[str, object]) -> None:
    assert page.post(f"/api/runs/{page.key('a')}/apply", body, 400)["error"]["code"] == "body"
    assert steps(run) == list(LOSSES)


def test_the_past_under_another_policy(page: Page) -> None:
    found = page.get(f"/api/runs/{page.key('a')}/replay", keep="best:1,latest:1")
    assert [frame["kept"] for frame in found["frames"]] == [[1], [2], [3], [4], [5]]
    assert [frame["thinned"] for frame in found["frames"]] == [[], [], [2], [2], [2]]
    assert found["frames"][1]["removed"] == [
        {"step": 1, "reason": "rank 2 of 2 by eval_loss; not the best, not the newest"}
    ]
    assert found["final"] == {"kept": [2, 5], "best": 2, "resume_from": 5} and "5 saves" in found["note"]
    assert page.get(f"/api/runs/{page.key('a')}/replay", 400, keep="x")["error"]["hint"]
