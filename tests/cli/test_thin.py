"""Tests of `keepstep thin`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keepstep.run import Run
from tests.cli.conftest import Call
from tests.operations.runs import make_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {1: 0.1, 2: 0.2, 3: 0.3})


def test_it_says_what_is_left(run: Run, call: Call) -> None:
    assert "checkpoint-1 is weights-1 now: 900 B of weights, 100 B freed" in call("thin", run.path, "1").stdout
    assert "weights" in call("ls", run.path).stdout
    assert "weights only" in call("show", run.path, "1").stdout


def test_json(run: Run, call: Call) -> None:
    shown = json.loads(call("thin", run.path, "best", "--format", "json").stdout)
    assert shown == {
        "step": 1, "generation": 1, "path": str(run.path / "weights-1"), "size_bytes": 900, "freed_bytes": 100,
    }  # fmt: skip


def test_the_newest_is_refused(run: Run, call: Call) -> None:
    result = call("thin", run.path, "latest")
    assert result.exit_code == 1
    assert "stays whole: latest 1 of 1" in result.stderr
    assert "Thin an older one" in result.stderr


def test_ls_shows_what_the_next_prune_thins(run: Run, call: Call) -> None:
    file = run.path / ".keepstep" / "run.json"
    file.write_text(file.read_text().replace('"all"', '"best:1,latest:1"'))
    assert "would be thinned" in call("ls", run.path).stdout
    assert "thins 1" in call("ls", run.path, "--format", "human", env={"COLUMNS": "200"}).stdout
    rows = json.loads(call("ls", run.path, "--format", "json").stdout)
    assert [row["action"] for row in rows] == ["thin", "remove", "keep"]


@pytest.mark.parametrize("words", [("prune", "--keep", "latest:1", "--yes"), ("thin", "2")], ids=["prune", "thin"])
def test_a_training_that_runs_is_not_touched_and_what_to_do_is_said(
    run: Run, call: Call, words: tuple[str, ...]
) -> None:
    before = [c.name for c in run.checkpoints]
    with Run.open(run.path).writing():
        result = call(words[0], run.path, *words[1:])
    assert result.exit_code == 5
    assert "is in use by process" in result.stderr
    assert f"keepstep pin {run.path} REF" in result.stderr
    assert [c.name for c in run.checkpoints] == before
