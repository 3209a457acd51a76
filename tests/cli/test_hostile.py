"""Tests of names, metrics, tags and events that try to act on the terminal or on rich's markup."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from keepstep.checkpointer import Facts
from keepstep.run import Run
from tests.cli.conftest import Call
from tests.operations.runs import make_run, training

EVIL = "[red]\x1b[2J\x1b]0;title\x07\x9b31m\u202e\r\u2028end"
ACTIVE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def write(directory: Path) -> None:
        (directory / EVIL).write_bytes(b"x")

    with training(tmp_path / "run") as checkpointer:
        facts = Facts(
            1,
            metrics={EVIL: 0.5, "eval_loss": 0.1},
            written_by={EVIL: EVIL},
            fingerprint={EVIL: {EVIL: EVIL}, "plain": EVIL},
        )
        checkpointer.save(facts, write)
        checkpointer.run.events.append(EVIL, name=EVIL, step=EVIL, time=EVIL)
    pins = tmp_path / "run" / ".keepstep" / "pins.json"
    pins.write_text(json.dumps({"pinned": [], "tags": {EVIL: 1}}))
    file = tmp_path / "run" / "checkpoint-1" / EVIL
    file.write_bytes(b"y")
    (tmp_path / "run" / "checkpoint-2").mkdir()
    return Run.open(tmp_path / "run")


@pytest.mark.parametrize("format_", ["auto", "human", "json"])
@pytest.mark.parametrize(
    "arguments",
    [["ls"], ["ls", "--tree"], ["show", "1"], ["diff", "1", "1"], ["verify"], ["events"], ["prune", "--dry-run"]],
)
def test_nothing_active_comes_out(run: Run, call: Call, arguments: list[str], format_: str) -> None:
    command, *rest = arguments
    result = call(command, run.path, *rest, "--format", format_, env={"COLUMNS": "300"})
    assert ACTIVE.search(result.stdout + result.stderr) is None
    if command in ("show", "events") and format_ != "json":
        assert "[red]\\x1b[2J" in result.stdout


@pytest.mark.parametrize("command", ["show", "pin", "resume --ref", "verify"])
def test_nothing_active_comes_out_of_errors(run: Run, call: Call, command: str) -> None:
    name, *options = command.split()
    result = call(name, run.path, *options, EVIL + "?")
    assert result.exit_code == 3
    assert ACTIVE.search(result.stderr) is None


def test_a_directory_with_such_a_name(tmp_path: Path, call: Call) -> None:
    result = call("ls", tmp_path / "a\x1b[2J")
    assert result.exit_code == 3
    assert ACTIVE.search(result.stderr) is None


def test_a_home_that_nobody_has_is_no_such_run(call: Call) -> None:
    for command in ("ls", "doctor", "metrics"):
        assert call(command, "~nobody-of-this-name/run").exit_code in (3, 8)


def test_paths_that_are_no_text_are_escaped_for_programs(tmp_path: Path, call: Call) -> None:
    path = tmp_path / os.fsdecode(b"r\xe9sum\xe9")
    make_run(path, {1: 0.1})
    result = call("ls", path, "--format", "json")
    assert result.exit_code == 0
    assert "r\\\\udce9sum" in result.stdout or "r\\udce9sum" in str(json.loads(result.stdout))
    assert call("metrics", path).exit_code == 0
