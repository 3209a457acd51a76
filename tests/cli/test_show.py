"""Tests of `keepstep show`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keepstep.run import Run
from tests.cli.conftest import Call
from tests.operations.runs import make_run
from tests.operations.test_receipts import EQUAL, resume


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {100: 0.5, 200: 0.25, 300: 0.4}, keep="best:2:full,latest:1")


@pytest.mark.parametrize("format_", ["auto", "human"])
def test_everything_that_people_ask(run: Run, call: Call, format_: str) -> None:
    shown = call("show", run.path, "best", "--format", format_, env={"COLUMNS": "200"}).stdout

    for part in (
        "checkpoint-200 of",
        "200 (epoch 2.00)",
        "generation  2 of timeline 1, continues generation 1",
        "1.0 kB in 2 files",
        "rank 1 of 2",
        "best 1 of 2 by eval_loss (0.25, lower is better)",
        "What would remove it",
        "2 newer checkpoints with eval_loss below 0.25",
        "optimizer.pt",
        "xxh3-128:",
        "torch",
    ):
        assert part in shown, part


def test_what_the_next_prune_removes_says_so(run: Run, call: Call) -> None:
    file = run.path / ".keepstep" / "run.json"
    file.write_text(file.read_text().replace("best:2:full,", ""))

    shown = call("show", run.path, "200").stdout

    assert "would be removed" in shown
    assert "the next prune" in shown


def test_the_receipt_of_the_last_resume_from_it(run: Run, call: Call) -> None:
    assert "Receipt" not in call("show", run.path, "200").stdout
    receipt = resume(run, 200, EQUAL, compared="3 of 3 tensors equal what was saved")

    shown = call("show", run.path, "200", env={"COLUMNS": "200"}).stdout

    assert "Receipt of the last resume from it" in shown
    assert all(line in shown for line in receipt.lines())
    plain = json.loads(call("show", run.path, "200", "--format", "json").stdout)["receipt"]
    assert (plain["evidence"], plain["course"]["equal"]) == ("proved", [3, 4])


@pytest.mark.parametrize("command", ["show", "events"])
def test_the_help_defines_what_it_is_known_from(call: Call, command: str) -> None:
    said = " ".join(call(command, "--help").stdout.split())
    assert all(f"{word} " in said for word in ("proved", "compared", "inferred"))


def test_json(run: Run, call: Call) -> None:
    shown = json.loads(call("show", run.path, "300", "--format", "json").stdout)
    assert shown["step"] == 300
    assert shown["rank"] == 2
    assert len(shown["removed_by"]) == 3
    assert {"path", "size_bytes", "digest"} == set(shown["files"][0])


def test_an_unknown_one_names_a_near_one(run: Run, call: Call) -> None:
    result = call("show", run.path, "lates")
    assert result.exit_code == 3
    assert result.stdout == ""
    assert "Did you mean 'latest'?" in result.stderr
