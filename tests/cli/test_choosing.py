"""Tests of `keepstep resume` and `keepstep best`: the path and nothing else on stdout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keepstep.model import Kind
from keepstep.run import Run
from tests.cli.conftest import Call
from tests.operations.runs import cut_manifest, flip, make_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {1: 0.1, 2: 0.2, 3: 0.3})


def test_resume_prints_the_newest_that_holds_and_says_why(run: Run, call: Call) -> None:
    flip(run.path / "checkpoint-3" / "model.safetensors")

    result = call("resume", run.path)

    assert result.exit_code == 0
    assert result.stdout == f"{run.path / 'checkpoint-2'}\n"
    assert "passed over: checkpoint-3 (generation 3): model.safetensors has other bytes" in result.stderr
    assert "step 2: the newest checkpoint that holds; verified" in result.stderr


def test_an_unreadable_manifest_is_not_passed_over_in_silence(run: Run, call: Call) -> None:
    cut_manifest(run.path / "checkpoint-3")

    result = call("resume", run.path)

    assert result.stdout == f"{run.path / 'checkpoint-2'}\n"
    assert "passed over: checkpoint-3: keepstep.json is not JSON" in result.stderr


def test_resume_from_a_named_one(run: Run, call: Call) -> None:
    assert call("resume", run.path, "--ref", "best").stdout == f"{run.path / 'checkpoint-1'}\n"
    flip(run.path / "checkpoint-1" / "optimizer.pt")
    refused = call("resume", run.path, "--ref", "best")
    assert (refused.exit_code, refused.stdout) == (7, "")
    assert "is damaged" in refused.stderr


def test_nothing_to_resume_from_is_3(tmp_path: Path, run: Run, call: Call) -> None:
    for step in (1, 2, 3):
        flip(run.path / f"checkpoint-{step}" / "model.safetensors")
    empty = make_run(tmp_path / "empty", {})
    weights = make_run(tmp_path / "weights", {1: 0.1}, kind=Kind.WEIGHTS)

    for path in (run.path, empty.path, weights.path):
        result = call("resume", path)
        assert (result.exit_code, result.stdout) == (3, ""), path
        assert "Traceback" not in result.stderr


def test_best_falls_to_the_next_that_holds(run: Run, call: Call) -> None:
    assert call("best", run.path).stdout == f"{run.path / 'checkpoint-1'}\n"

    flip(run.path / "checkpoint-1" / "model.safetensors")
    result = call("best", run.path)

    assert (result.exit_code, result.stdout) == (1, f"{run.path / 'checkpoint-2'}\n")
    assert "passed over: checkpoint-1" in result.stderr
    assert "exit code 1: the best by the metric does not hold" in result.stderr
    assert "best that holds (rank 2) by eval_loss (0.2, lower is better)" in result.stderr


def test_no_best_is_3(tmp_path: Path, call: Call) -> None:
    result = call("best", make_run(tmp_path / "run", {1: None}, metric=None).path)
    assert (result.exit_code, result.stdout) == (3, "")
    assert "no metric to rank by" in result.stderr


def test_that_the_best_does_not_hold_is_said_each_time(run: Run, call: Call) -> None:
    flip(run.path / "checkpoint-1" / "model.safetensors")
    for _ in range(2):
        result = call("best", run.path, "--format", "json")
        answer = json.loads(result.stdout)
        assert (result.exit_code, answer["step"], answer["passed_over"][0]["step"]) == (1, 2, 1)


def test_an_optimizer_that_is_damaged_is_no_reason(run: Run, call: Call) -> None:
    flip(run.path / "checkpoint-1" / "optimizer.pt")
    result = call("best", run.path)
    assert (result.exit_code, result.stdout) == (0, f"{run.path / 'checkpoint-1'}\n")
    assert "Its weights hold, but optimizer.pt has other bytes" in result.stderr


def test_best_says_how_sure_it_is(tmp_path: Path, call: Call) -> None:
    run = make_run(tmp_path / "run", {step: 0.5 + 0.001 * (-1) ** step + step / 10**4 for step in range(1, 13)})
    assert "checkpoint-1 leads by 0.0002; evaluations next to each other differ by " in call("best", run.path).stderr
    answer = json.loads(call("best", run.path, "--format", "json").stdout)
    assert (answer["certainty"]["step"], answer["certainty"]["evaluations"]) == (1, 12)
    assert "a tie with" in call("show", run.path, "best").stdout
    few = make_run(tmp_path / "few", {1: 0.5, 2: 0.6})
    assert "leads by" not in call("best", few.path).stderr
    assert json.loads(call("best", few.path, "--format", "json").stdout)["certainty"] is None


@pytest.mark.parametrize("command", ["resume", "best"])
def test_json(run: Run, call: Call, command: str) -> None:
    answer = json.loads(call(command, run.path, "--format", "json").stdout)
    step = {"resume": 3, "best": 1}[command]
    assert (answer["step"], answer["path"]) == (step, str(run.path / f"checkpoint-{step}"))
    assert answer["passed_over"] == []
