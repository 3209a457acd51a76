"""Tests of `keepstep restore`, and of the commands that reach what lies aside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keepstep.checkpointer import Checkpointer, Facts
from keepstep.retention import Policy
from keepstep.run import Run
from tests.cli.conftest import Call
from tests.operations.runs import LOSS, make_run, training, write


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """100, 200, then 300 (generation 3), set aside, and 250 (4)."""
    path = make_run(tmp_path / "run", {100: 0.5, 200: 0.25, 300: 0.4}).path
    checkpointer = Checkpointer(path, Policy.from_spec("all", LOSS))
    checkpointer.begin(200)
    checkpointer.save(Facts(250, metrics={"eval_loss": 0.3}), write)
    checkpointer.close()
    return Run.open(path)


def listed(call: Call, run: Run) -> list[int]:
    return [row["step"] for row in json.loads(call("ls", run.path, "--format", "json").stdout)]


def test_without_a_reference_it_lists_what_could_come_back(run: Run, call: Call) -> None:
    result = call("restore", run.path)
    assert result.exit_code == 0
    assert "timeline 1, set aside by a rewind" in result.stdout
    assert f"keepstep restore {run.path} --timeline 1" in " ".join(result.stdout.split())
    shown = json.loads(call("restore", run.path, "--format", "json").stdout)
    assert [(part["reference"], part["steps"]) for part in shown["parts"]] == [("--timeline 1", [300])]


def test_nothing_aside(tmp_path: Path, call: Call) -> None:
    path = make_run(tmp_path / "other", {100: 0.5}).path
    assert "nothing aside" in call("restore", path).stderr


def test_without_a_terminal_it_only_shows(run: Run, call: Call) -> None:
    for options in ([], ["--dry-run"]):
        result = call("restore", run.path, "gen:3", *options)
        assert result.exit_code == 0
        assert "comes back, verified" in result.stdout
        assert "is set aside, as timeline 2" in result.stdout
        assert "A resume goes on from step 300 (generation 3) then, and no longer from step 250" in result.stdout
        assert listed(call, run) == [100, 200, 250]
    assert "add --yes to restore" in call("restore", run.path, "gen:3").stderr


def test_it_does_what_was_shown_and_says_the_way_back(run: Run, call: Call) -> None:
    result = call("restore", run.path, "--timeline", "1", "--yes")
    assert (result.exit_code, listed(call, run)) == (0, [100, 200, 300])
    assert f"1 set aside: keepstep restore {run.path} --timeline 2." in result.stdout
    assert call("resume", run.path).stdout.strip() == str(run.path / "checkpoint-300")
    assert "from what was set aside: steps 300; set aside: steps 250" in call("events", run.path).stdout
    again = call("restore", run.path, "--timeline", "2", "--yes")
    assert (again.exit_code, listed(call, run)) == (0, [100, 200, 250])


def test_json(run: Run, call: Call) -> None:
    shown = json.loads(call("restore", run.path, "gen:3", "--format", "json").stdout)
    assert (shown["applied"], shown["would_resume_from"], shown["resumes_from"]) == (False, 3, 4)
    assert [one["generation"] for one in shown["restores"]] == [3]
    done = json.loads(call("restore", run.path, "gen:3", "--yes", "--format", "json").stdout)
    assert done["applied"] is True


def test_what_is_refused_has_a_code_and_a_way_out(run: Run, call: Call) -> None:
    assert call("restore", run.path, "gen:9").exit_code == 3
    result = call("restore", run.path, "latest")
    assert (result.exit_code, "already" in result.stderr) == (1, True)
    assert call("restore", run.path, "gen:3", "--timeline", "1").exit_code == 2
    with training(run.path):
        assert call("restore", run.path, "gen:3", "--yes").exit_code == 5


def test_a_previous_run(run: Run, call: Call) -> None:
    checkpointer = Checkpointer(run.path, Policy.from_spec("all", LOSS), fresh="new-run")
    checkpointer.begin(None)
    checkpointer.save(Facts(10, metrics={"eval_loss": 1.0}), write)
    checkpointer.close()
    later = Run.open(run.path)
    result = call("restore", run.path, f"previous:{run.id}")
    assert "steps 100, 200, 250; with its pins, events and curves; verified" in result.stdout
    assert f"the run that is there, {later.id}: steps 10" in result.stdout
    result = call("restore", run.path, f"previous:{run.id[:5]}", "--yes")
    assert f"keepstep restore {run.path} previous:{later.id}" in result.stdout
    assert listed(call, run) == [100, 200, 250]
    assert f"run {run.id} is back, steps 100, 200, 250; {later.id} moved to" in call("events", run.path).stdout


# -- the other commands that reach there ---------------------------------------------------------------------


def test_show_pin_verify_and_resume_reach_aside(run: Run, call: Call) -> None:
    shown = call("show", run.path, "gen:3").stdout
    assert "set aside" in shown and f"keepstep restore {run.path} gen:3" in shown and "--aside" in shown
    assert call("pin", run.path, "gen:3").exit_code == 0
    assert "pinned" in call("show", run.path, "gen:3").stdout
    assert call("verify", run.path, "gen:3").exit_code == 0
    where = run.path / ".keepstep" / "timelines" / "1" / "checkpoint-300"
    assert call("resume", run.path, "--ref", "gen:3").stdout.strip() == str(where)
    result = call("prune", run.path, "--aside", "--yes")
    assert (result.exit_code, where.is_dir()) == (0, True), "pinned"


def test_who_does_not_reach_there_says_the_way_back(run: Run, call: Call) -> None:
    result = call("thin", run.path, "gen:3")
    assert result.exit_code == 3
    assert f"Bring it back: keepstep restore {run.path} gen:3" in result.stderr
