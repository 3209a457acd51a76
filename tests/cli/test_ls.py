"""Tests of `keepstep ls`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from keepstep.checkpointer import Facts
from keepstep.model import Kind
from tests.cli.conftest import Call
from tests.operations.runs import flip, make_run, training, write


def test_piped_text_has_one_aligned_line_each(tmp_path: Path, call: Call) -> None:
    run = make_run(tmp_path / "run", {100: 0.5, 1000: 0.25}, keep="best:1,every:100,latest:1")
    run.pin_board.tag(1, "first")

    lines = call("ls", run.path).stdout.splitlines()

    assert lines[0].split() == [
        "Step", "Epoch", "eval_loss", "Mark", "Kept", "because", "Size", "Age", "State", "Timeline", "Other", "metrics",
    ]  # fmt: skip
    assert len(lines) == 3
    assert lines[1].startswith(" 100   1.00       0.50  #first")
    assert lines[2].startswith("1000  10.00       0.25  best newest")
    assert "best 1 of 1 by eval_loss (0.25, lower is better); milestone every 100 steps" in lines[2]
    assert all(line.isascii() for line in lines)


def test_committed_verified_and_damaged_are_told_apart(tmp_path: Path, call: Call) -> None:
    run = make_run(tmp_path / "run", {1: 0.3, 2: 0.2, 3: 0.1})
    flip(run.path / "checkpoint-2" / "model.safetensors")
    assert "None verified since the commit." in call("ls", run.path, "--format", "human").stdout
    for reference in ("1", "2"):
        call("verify", run.path, reference)
    rows = json.loads(call("ls", run.path, "--format", "json").stdout)
    assert [(row["state"], row["verified"] is not None) for row in rows] == [
        ("committed", True), ("damaged", False), ("committed", False),
    ]  # fmt: skip
    lines = call("ls", run.path).stdout.splitlines()
    states = ("  verified 0 s ago  ", "  damaged  ", "  committed, not verified  ")
    assert [[state for state in states if state in line.replace("1 s ago", "0 s ago")] for line in lines[1:]] == [
        [state] for state in states
    ]
    assert "All but 1 verified since the commit." in " ".join(call("ls", run.path, "--format", "human").stdout.split())
    assert "committed, not verified" in call("show", run.path, "3").stdout
    # What was put into it since is another content: nobody has read that back yet.
    run.events.append("sealed", step=1, generation=1, added=["config.json"], rewritten=[], removed=[], by=["somebody"])
    assert "committed, not verified" in call("show", run.path, "1").stdout


def test_json_is_a_list_of_what_the_operation_says(tmp_path: Path, call: Call) -> None:
    run = make_run(tmp_path / "run", {1: math.nan, 2: 0.3})

    rows = json.loads(call("ls", run.path, "--format", "json").stdout, parse_constant=pytest.fail)

    assert [row["step"] for row in rows] == [1, 2]
    assert rows[0]["metrics"]["eval_loss"] == "NaN"
    assert rows[1]["kept_because"] == ["everything is kept", "newest: the recovery point"]


def test_what_would_go_says_so(tmp_path: Path, call: Call) -> None:
    run = make_run(tmp_path / "run", {1: 0.1, 2: 0.3})
    file = run.path / ".keepstep" / "run.json"
    file.write_text(file.read_text().replace('"all"', '"latest:1"'))

    result = call("ls", run.path)

    first, second = result.stdout.splitlines()[1:]
    assert "would be removed: not the newest" in first
    assert "would be removed" not in second
    assert "The next prune removes 1 and frees 1.0 kB" in call("ls", run.path, "--format", "human").stdout


def test_damage_is_marked_even_where_columns_are_dropped(tmp_path: Path, call: Call) -> None:
    run = make_run(tmp_path / "run", {1: 0.1, 2: 0.3})
    flip(run.path / "checkpoint-1" / "optimizer.pt")
    call("verify", run.path)

    assert [row["state"] for row in json.loads(call("ls", run.path, "--format", "json").stdout)] == [
        "damaged",
        "committed",
    ]
    assert "damaged" in call("ls", run.path, "--format", "human").stdout


def test_all_adds_what_was_set_aside(tmp_path: Path, call: Call) -> None:
    run = make_run(tmp_path / "run", {1: 0.1, 2: 0.3})
    with run.writing():
        run.rewind(run.find(1))

    assert len(json.loads(call("ls", run.path, "--format", "json").stdout)) == 1
    rows = json.loads(call("ls", run.path, "--all", "--format", "json").stdout)
    assert [row["state"] for row in rows] == ["committed", "set aside"]


def test_foreign_directories_are_noted_beside_the_data(tmp_path: Path, call: Call) -> None:
    run = make_run(tmp_path / "run", {1: 0.1})
    (run.path / "checkpoint-7").mkdir()

    result = call("ls", run.path, "--format", "json")

    assert len(json.loads(result.stdout)) == 1
    assert "checkpoint-7" in result.stderr
    assert "no keepstep.json" in result.stderr


def test_an_empty_run(tmp_path: Path, call: Call) -> None:
    run = make_run(tmp_path / "run", {})

    result = call("ls", run.path)

    assert (result.exit_code, result.stdout) == (0, "")
    assert "no checkpoint yet" in result.stderr
    assert json.loads(call("ls", run.path, "--format", "json").stdout) == []


def test_weights_only_is_marked(tmp_path: Path, call: Call) -> None:
    run = make_run(tmp_path / "run", {1: 0.1}, kind=Kind.WEIGHTS)
    assert "weights" in call("ls", run.path).stdout


@pytest.mark.parametrize("columns", [20, 30, 50, 80, 200])
def test_tables_fit_the_terminal(tmp_path: Path, call: Call, columns: int) -> None:
    run = make_run(tmp_path / "run", {100: 0.5, 200: 0.25}, keep="best:2,every:100,latest:1")

    shown = call("ls", run.path, "--format", "human", env={"COLUMNS": str(columns)}).stdout

    lines = shown[shown.index("Step") :].splitlines()
    assert max(map(len, lines)) <= columns
    assert "100" in shown
    assert "Kept because" in " ".join(shown.split())
    assert ("eval_loss" in lines[0]) == (columns >= 50)


def test_many_metrics_are_shortened_for_people_and_whole_for_machines(tmp_path: Path, call: Call) -> None:
    metrics = {f"eval_task_{i}_{'x' * 60}": 0.1 * i for i in range(40)}
    with training(tmp_path / "run") as checkpointer:
        checkpointer.save(Facts(1, metrics={"eval_loss": 0.5, **metrics}), write)

    shown = call("ls", tmp_path / "run").stdout
    assert "and 37 more" in shown
    assert "x" * 60 not in shown
    (row,) = json.loads(call("ls", tmp_path / "run", "--format", "json").stdout)
    assert len(row["metrics"]) == 41
