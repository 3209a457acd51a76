"""Which checkpoints are of the present course: their logs say so, record by record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keepstep.run import StockRun
from tests.stock.written import checkpoint, log_to

START = 1_700_000_000


def steps(run: Path) -> list[int]:
    return [c.step for c in StockRun.open(run).checkpoints]


def test_one_course_is_in_the_order_of_its_steps(tmp_path: Path) -> None:
    for step in (10, 2, 6):
        checkpoint(tmp_path, step)
    assert steps(tmp_path) == [2, 6, 10]
    assert {c.timeline for c in StockRun.open(tmp_path).checkpoints} == {1}


def test_a_start_over_leaves_the_rest_of_the_old_course_behind(tmp_path: Path) -> None:
    for step in (6, 8):
        checkpoint(tmp_path, step, at=START + step)
    for step in (2, 4):
        checkpoint(tmp_path, step, log=log_to(step, offset=0.5), at=START + 100 + step)
    run = StockRun.open(tmp_path)
    assert steps(tmp_path) == [6, 8, 2, 4]
    assert run.resume_point().checkpoint.step == 4
    assert [run.word_for(c) for c in run.checkpoints] == ["another course"] * 2 + ["not managed"] * 2


def test_a_branch_goes_on_from_what_both_have_in_common(tmp_path: Path) -> None:
    for step in (2, 4, 8):
        checkpoint(tmp_path, step, at=START + step)
    branched: list[dict[str, Any]] = [*log_to(4), {"step": 6, "loss": 9.0}]
    checkpoint(tmp_path, 6, log=branched, at=START + 100)
    run = StockRun.open(tmp_path)
    assert steps(tmp_path) == [8, 2, 4, 6]
    assert run.checkpoints[-1].parent == 3


def test_values_that_equal_nothing_are_compared_as_text(tmp_path: Path) -> None:
    log = [{"step": 2, "loss": float("nan")}]
    checkpoint(tmp_path, 2, log=log, at=START)
    checkpoint(tmp_path, 4, log=[*log, {"step": 4, "loss": float("inf")}], at=START + 10)
    assert steps(tmp_path) == [2, 4]
    assert {c.timeline for c in StockRun.open(tmp_path).checkpoints} == {1}


def test_a_copy_that_lost_its_times_is_said_to_be_unsure(tmp_path: Path) -> None:
    checkpoint(tmp_path, 8, at=START)
    checkpoint(tmp_path, 4, log=log_to(4, offset=0.5), at=START)
    assert "times" in StockRun.open(tmp_path).oddities()[0]
    assert StockRun.open(tmp_path).resume_point().checkpoint.step == 8
