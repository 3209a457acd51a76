"""Tests of `keepstep repair`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from keepstep import layout
from keepstep.run import Run
from tests.cli.conftest import Call
from tests.operations.runs import make_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {100: 0.5, 200: 0.25})


def test_nothing_to_repair(run: Run, call: Call) -> None:
    result = call("repair", run.path)
    assert (result.exit_code, "its records are whole" in result.stdout) == (0, True)


def test_without_a_terminal_it_only_shows(run: Run, call: Call) -> None:
    call("tag", run.path, "100", "first")
    (run.path / layout.PINS).write_text('{"pinn')
    for options in ([], ["--dry-run"]):
        result = call("repair", run.path, *options)
        assert result.exit_code == 0
        assert ".keepstep/pins.json is damaged" in result.stdout
        assert "written anew from the events: 1 checkpoint pinned, 1 tag" in result.stdout
        assert (run.path / layout.PINS).read_text() == '{"pinn'
    assert "add --yes to repair" in call("repair", run.path).stderr
    assert "keepstep repair" in call("ls", run.path).stderr, "who stumbles over it hears of it"


def test_it_does_what_was_shown(run: Run, call: Call) -> None:
    (run.path / layout.EVENTS).unlink()
    result = call("repair", run.path, "--yes")
    assert (result.exit_code, "No checkpoint was touched" in result.stdout) == (0, True)
    told = call("events", run.path).stdout
    assert told.count("committed") == 2 and "2 commits rebuilt from manifests" in told
    assert "records are whole" in call("repair", run.path).stdout


def test_without_keepsteps_own_directory(run: Run, call: Call) -> None:
    shutil.rmtree(run.path / layout.META)
    shown = json.loads(call("repair", run.path, "--format", "json").stdout)
    assert [one["path"] for one in shown["damaged"]] == [layout.RUN, layout.EVENTS]
    assert shown["applied"] is False and not (run.path / layout.META).exists()
    done = json.loads(call("repair", run.path, "--yes", "--format", "json").stdout)
    assert (done["applied"], done["run_id"], Run.open(run.path).id) == (True, run.id, run.id)


def test_what_was_damaged_is_kept(run: Run, call: Call) -> None:
    (run.path / layout.RUN).write_bytes(b"torn")
    result = call("repair", run.path, "--yes")
    (kept,) = run.path.glob(".keepstep/run.json.damaged-*")
    assert str(kept) in result.stdout and kept.read_bytes() == b"torn"


def test_where_there_is_no_run(tmp_path: Path, call: Call, run: Run) -> None:
    assert call("repair", tmp_path / "nothing").exit_code == 3
    (run.path / layout.PINS).write_bytes(b"{")
    with run.writing():
        assert call("repair", run.path, "--yes").exit_code == 5
