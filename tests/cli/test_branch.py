"""Tests of `keepstep branch`, and of the tree that `keepstep ls` draws."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from keepstep.checkpointer import Checkpointer, Facts
from keepstep.retention import Policy
from keepstep.run import Run
from tests.cli.conftest import Call
from tests.operations.runs import LOSS, make_run, write


def go_on(path: Path, resume: object, steps: list[int]) -> None:
    """Resume there, and save these steps."""
    checkpointer = Checkpointer(path, Policy.from_spec("all", LOSS))
    checkpointer.begin(resume)  # type: ignore[arg-type]
    for step in steps:
        checkpointer.save(Facts(step, metrics={"eval_loss": 1 / step}), write)
    checkpointer.close()


def test_shown_then_done_and_said_by_both(tmp_path: Path, call: Call) -> None:
    run = make_run(tmp_path / "run", {100: 0.5, 200: 0.25})
    new = tmp_path / "new"

    assert "Would begin a run" in call("branch", run.path, "100", new, "--dry-run").stdout
    assert not new.exists()
    done = json.loads(call("branch", run.path, "100", new, "--format", "json").stdout)

    assert (done["applied"], done["links"], done["step"]) == (True, True, 100)
    assert f"branched off step 100 of {run.path} (run {run.id}, generation 1)" in call("ls", new).stderr
    assert f"from step 100 of {run.path}" in call("show", new, "100").stdout
    assert f"this run begins with that of {run.path}, generation 1 of run {run.id}" in call("events", new).stdout
    assert f"run {done['new_run_id']} begins with it in {new}" in call("events", run.path).stdout
    assert f"run {done['new_run_id']} in {new}: 1 checkpoint" in call("show", run.path, "100").stdout
    assert json.loads(call("show", run.path, "200", "--format", "json").stdout)["branches"] == []
    again = call("branch", run.path, "100", new)
    assert again.exit_code == 6 and "is a run already" in again.stderr


@pytest.fixture
def grown(tmp_path: Path, call: Call) -> Run:
    """Two rewinds, a run before it, a branch that is there and one that is gone."""
    path = tmp_path / "run"
    go_on(path, "auto", [1, 2])
    go_on(path, None, [10, 20, 30, 40])
    call("branch", path, "30", tmp_path / "gone")
    go_on(path, 20, [31, 41])
    call("branch", path, "20", tmp_path / "there")
    shutil.rmtree(tmp_path / "gone")
    call("verify", path)
    return Run.open(path)


def test_the_tree_draws_timelines_previous_runs_and_branches(grown: Run, call: Call) -> None:
    lines = call("ls", grown.path, "--tree", env={"COLUMNS": "300"}).stdout.splitlines()

    def shape(line: str) -> str:
        return "  ".join(line.split("  ")[: 1 + line.count("|  ")]).split(" run ")[0].split("  generation")[0]

    assert [shape(line) for line in lines[1:-3]] == [
        "|- step 10",
        "|- step 20",
        "|  |- timeline 1, set aside",
        "|  |  |- step 30",
        "|  |  |  `- branch",
        "|  |  `- step 40",
        "|  `- branch",
        "|- step 31",
        "`- step 41",
    ]
    assert lines[5].endswith("gone: not there any more")
    assert lines[7].endswith("there: 1 checkpoint, the newest of step 20")
    assert lines[9].endswith("best  newest")
    assert lines[-3].startswith("previous run ") and lines[-1].startswith("`- step 2")


def test_the_tree_for_programs(grown: Run, call: Call) -> None:
    plain = json.loads(call("ls", grown.path, "--tree", "--format", "json").stdout)

    grew = {one["generation"]: (one["step"], one["grew_from"], one["on_course"]) for one in plain["checkpoints"]}
    assert grew == {
        1: (10, None, True), 2: (20, 1, True), 3: (30, 2, False), 4: (40, 3, False), 5: (31, 2, True), 6: (41, 5, True),
    }  # fmt: skip
    assert [one["checkpoints"] for one in plain["branches"]] == [None, 1]
    assert [one["step"] for one in plain["previous"][0]["checkpoints"]] == [1, 2]


def test_what_is_removed_between_leaves_the_rest_connected(grown: Run, call: Call) -> None:
    with grown.writing():
        for step in (20, 31):
            grown.remove(grown.find(step), "a test")
    lines = call("ls", grown.path, "--tree", env={"COLUMNS": "300"}).stdout.splitlines()
    drawn = [line.split("  generation")[0] for line in lines[1:5]]
    assert drawn[:3] == ["|- step 10", "|  `- timeline 1, set aside", "|     |- step 30"]
    plain = json.loads(call("ls", grown.path, "--tree", "--format", "json").stdout)
    assert {one["generation"]: one["grew_from"] for one in plain["checkpoints"]} == {1: None, 3: 1, 4: 3, 6: 1}
    assert any("of step 20, which is gone" in line for line in lines)


def test_a_tree_is_of_one_run_and_whole(grown: Run, tmp_path: Path, call: Call) -> None:
    assert "shows one run" in call("ls", grown.path, tmp_path / "there", "--tree").stderr
    assert "leave the other options out" in call("ls", grown.path, "--tree", "--limit", "2").stderr
