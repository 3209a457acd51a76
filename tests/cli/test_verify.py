"""Tests of `keepstep verify`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keepstep.run import Run
from tests.cli.conftest import Call
from tests.operations.runs import cut_manifest, flip, make_run, training


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {1: 0.1, 2: 0.2, 3: 0.3})


def test_a_good_run(run: Run, call: Call) -> None:
    result = call("verify", run.path)
    assert result.exit_code == 0
    assert "3 checkpoints verified: every byte of 3.0 kB is as written." in result.stdout
    assert [e["ok"] for e in run.events.read() if e["event"] == "verified"] == [True, True, True]


def test_a_problem_is_named_and_the_exit_code_is_1(run: Run, call: Call) -> None:
    flip(run.path / "checkpoint-2" / "model.safetensors")
    (run.path / "checkpoint-2" / "optimizer.pt").unlink()

    result = call("verify", run.path)

    assert result.exit_code == 1
    assert "model.safetensors has other bytes than were written" in result.stdout
    assert "optimizer.pt is missing" in result.stdout
    assert "1 of 3 checkpoints damaged" in result.stdout
    assert f"keepstep verify {run.path} --quarantine" in result.stdout
    assert run.events.damaged() == {2}


def test_one_alone(run: Run, call: Call) -> None:
    flip(run.path / "checkpoint-2" / "model.safetensors")
    assert call("verify", run.path, "3").exit_code == 0
    assert call("verify", run.path, "step:2").exit_code == 1
    assert call("verify", run.path, "9").exit_code == 3


def test_quarantine_says_where(run: Run, call: Call) -> None:
    flip(run.path / "checkpoint-2" / "model.safetensors")

    result = call("verify", run.path, "--quarantine")

    assert result.exit_code == 1
    (where,) = (run.path / ".keepstep" / "quarantine").iterdir()
    assert f"moved to {where / 'checkpoint-2'}" in result.stdout
    assert call("verify", run.path).exit_code == 0


def test_quarantine_needs_the_lock_and_reading_does_not(run: Run, call: Call) -> None:
    with training(run.path):
        assert call("verify", run.path).exit_code == 0
        locked = call("verify", run.path, "--quarantine")
    assert locked.exit_code == 5
    assert "in use by process" in locked.stderr


def test_a_damaged_manifest_is_a_problem(run: Run, call: Call) -> None:
    cut_manifest(run.path / "checkpoint-3")

    result = call("verify", run.path, "--quarantine")

    assert result.exit_code == 1
    assert "keepstep.json is not JSON" in result.stdout
    assert "left where it is" in result.stdout
    assert (run.path / "checkpoint-3").is_dir()


def test_json(run: Run, call: Call) -> None:
    flip(run.path / "checkpoint-2" / "optimizer.pt")

    result = call("verify", run.path, "--format", "json")

    assert result.exit_code == 1
    outcomes = json.loads(result.stdout)
    assert [outcome["ok"] for outcome in outcomes] == [True, False, True]
    assert outcomes[1]["problems"][0]["path"] == "optimizer.pt"
    assert outcomes[1]["moved_to"] is None


def test_an_empty_run_has_no_problem(tmp_path: Path, call: Call) -> None:
    result = call("verify", make_run(tmp_path / "empty", {}).path)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no checkpoint yet" in result.stderr
