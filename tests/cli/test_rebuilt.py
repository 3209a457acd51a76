"""Commands on a run that was copied without `.keepstep`, or whose run.json is gone."""

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
def bare(tmp_path: Path) -> Path:
    """Three checkpoints, the second the best, and nothing else."""
    path = make_run(tmp_path / "runs" / "sft", {100: 0.5, 200: 0.25, 300: 0.4}, keep="best:3,latest:2").path
    shutil.rmtree(path / layout.META)
    return path


def _names(path: Path) -> set[str]:
    return {str(entry.relative_to(path)) for entry in path.rglob("*")}


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["ls", "RUN"], "200"), (["ls", "RUN", "--all"], "200"), (["best", "RUN"], "checkpoint-200"),
        (["resume", "RUN"], "checkpoint-300"), (["show", "RUN", "best"], "0.25"), (["verify", "RUN"], "300"),
        (["du", "RUN"], "Weights"), (["prune", "RUN", "--keep", "latest:1", "--dry-run"], "remove"),
        (["events", "RUN"], ""), (["doctor", "RUN"], ""),
    ],
)  # fmt: skip
def test_what_only_looks_works_and_leaves_no_trace(bare: Path, call: Call, words: list[str], shown: str) -> None:
    before = _names(bare)
    result = call(*[str(bare) if word == "RUN" else word for word in words])
    assert result.exit_code == 0, result.stderr
    assert shown in result.stdout
    assert _names(bare) == before


def test_it_is_said_beside_the_data(bare: Path, call: Call) -> None:
    result = call("ls", bare, "--format", "json")
    assert [row["step"] for row in json.loads(result.stdout)] == [100, 200, 300]
    (line,) = [line for line in result.stderr.splitlines() if "rebuilt" in line]
    assert line.startswith(f"keepstep: {bare} has no .keepstep/run.json: run ")
    assert "lost where there were any: curves, pins, tags, events" in line


def test_it_is_found_below_a_directory(bare: Path, call: Call, tmp_path: Path) -> None:
    result = call("du", tmp_path, "--format", "json")
    assert [run["path"] for run in json.loads(result.stdout)["runs"]] == [str(bare)]
    assert call("metrics", tmp_path, "--textfile", tmp_path / "runs.prom").exit_code == 0
    assert "sft" in (tmp_path / "runs.prom").read_text()


@pytest.mark.parametrize(
    ("words", "event"),
    [(["pin", "RUN", "100"], "pinned"), (["tag", "RUN", "best", "release"], "tagged"),
     (["prune", "RUN", "--keep", "latest:1", "--yes"], "removed"), (["thin", "RUN", "200"], "thinned")],
)  # fmt: skip
def test_what_changes_it_writes_the_run_file_first(bare: Path, call: Call, words: list[str], event: str) -> None:
    run_id = Run.open(bare).id
    result = call(*[str(bare) if word == "RUN" else word for word in words])
    assert result.exit_code == 0, result.stderr
    run = Run.open(bare)
    assert (run.id, run.rebuilt) == (run_id, None)
    happened = [entry["event"] for entry in run.events.read()]
    assert happened[0] == "rebuilt"
    assert event in happened
    assert "manifests" in call("events", bare).stdout


def test_a_damaged_run_file_is_said_and_rebuilt(bare: Path, call: Call) -> None:
    call("tag", bare, "200", "release")
    (bare / layout.RUN).write_text('{"format": 1, "run')
    result = call("show", bare, "release")
    assert result.exit_code == 0
    assert "has a damaged .keepstep/run.json" in result.stderr
    assert "pins" not in result.stderr
    assert "200" in result.stdout


def test_stock_checkpoints_are_a_run_that_is_only_read(tmp_path: Path, call: Call) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "trainer_state.json").write_text("{}")
    result = call("ls", tmp_path)
    assert result.exit_code == 0
    assert "not managed" in result.stderr and "torn" in result.stdout
