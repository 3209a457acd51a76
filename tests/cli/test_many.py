"""Tests of commands on several runs: each on its own, and the worst exit code."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from keepstep.model import parse_name
from tests.cli.conftest import Call
from tests.operations.runs import flip, make_run
from tests.stock.written import everything_below, run_of


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two managed runs, a stock one below, and what is no run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "runs"
    make_run(root / "a", {1: 0.5, 2: 0.4, 3: 0.45})
    make_run(root / "b", {1: 0.3, 2: 0.35})
    run_of(root / "deeper" / "stock", [2, 4])
    (root / "logs").mkdir()
    (root / "notes.md").write_text("notes")
    return root


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def _runs(root: Path) -> list[str]:
    return [str(root / name) for name in ("a", "b", "deeper/stock")]


def test_a_table_of_all_below(root: Path, call: Call) -> None:
    shown = call("ls", "--root", root)
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["Run", *_runs(root)]
    rows = _lines(call("ls", "--root", root, "--format", "json").stdout)
    assert [(r["run"], r["state"], r["checkpoints"], r["best_step"]) for r in rows] == [
        (_runs(root)[0], "stopped", 3, 2),
        (_runs(root)[1], "stopped", 2, 1),
        (_runs(root)[2], "not managed", 2, 4),
    ]


def test_without_a_name_the_run_here_or_those_below(root: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    assert [line.split()[0] for line in call("ls").stdout.splitlines()] == ["Run", "a", "b", "deeper/stock"]
    monkeypatch.chdir(root / "a")
    assert call("ls").stdout == call("ls", ".").stdout
    monkeypatch.chdir(root / "logs")
    assert call("ls").exit_code == 3


def test_one_run_by_its_name_is_shown_as_ever(root: Path, call: Call) -> None:
    for command in (["ls"], ["best"], ["verify"], ["prune", "--keep", "latest:1"]):
        for form in ("auto", "json", "agent"):
            alone = call(*command, root / "a", "--format", form)
            twice = call(*command, root / "a", root / "a", "--format", form)
            assert (alone.stdout, alone.stderr, alone.exit_code) == (twice.stdout, twice.stderr, twice.exit_code)
    assert isinstance(json.loads(call("ls", root / "a", "--format", "json").stdout), list)


def test_quoted_patterns_name_runs_alone(root: Path, call: Call) -> None:
    rows = _lines(call("ls", f"{root}/*", "--format", "json").stdout)
    assert [row["run"] for row in rows] == _runs(root)[:2]
    assert call("ls", f"{root}/none*").exit_code == 3


def test_a_failure_stops_no_other_and_the_worst_code_counts(root: Path, call: Call) -> None:
    flip(root / "a" / "checkpoint-2" / "model.safetensors")
    done = call("verify", root / "a", root / "logs", root / "b")
    assert done.exit_code == 3
    assert f"{root / 'logs'} holds no run" in done.stderr
    assert "1 of 3 checkpoints damaged." in done.stdout
    assert "2 checkpoints verified" in done.stdout
    assert call("verify", "--root", root).exit_code == 1

    lines = _lines(call("verify", root / "a", root / "logs", root / "b", "--format", "json").stdout)
    assert [(line["run"], line["exit_code"]) for line in lines] == [
        (str(root / "a"), 1), (str(root / "logs"), 3), (str(root / "b"), 0),
    ]  # fmt: skip
    assert lines[1]["error"]["code"] == "run-not-found"
    assert [row["ok"] for row in lines[0]["result"]] == [True, False, True]


def test_a_run_that_can_not_be_opened_and_a_torn_one(root: Path, call: Call) -> None:
    (root / "b" / ".keepstep" / "run.json").write_text('{"format": 99, "run_id": "x"}')
    (root / "deeper" / "stock" / "checkpoint-4" / "trainer_state.json").unlink()
    done = call("best", "--root", root, "--format", "json")
    rows = {line["run"]: line for line in _lines(done.stdout)}
    assert done.exit_code == 9
    assert "error" in rows[str(root / "b")]
    assert rows[str(root / "a")]["step"] == 2
    assert rows[str(root / "deeper" / "stock")]["not_resumable_because"] == "checkpoint-4 lacks trainer_state.json"


def test_a_directory_that_can_not_be_read_is_said(root: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def scandir(place: Any = ".") -> Any:
        if os.fspath(place) == str(root / "logs"):
            raise PermissionError(13, "Permission denied", str(place))
        return scan(place)

    monkeypatch.setattr("keepstep.operations.seeing.finding.os.scandir", scandir)
    done = call("ls", "--root", root)
    assert done.exit_code == 8
    assert f"{root / 'logs'} could not be read: Permission denied" in done.stderr
    assert len(done.stdout.splitlines()) == 4


def test_the_reference_is_the_last_word_or_an_option(root: Path, call: Call) -> None:
    for words in ([root / "a", root / "b", "1"], ["--root", root, "--ref", "1"], ["--root", root, "1"]):
        lines = _lines(call("verify", *words, "--format", "json").stdout)
        assert [row["step"] for line in lines[:2] for row in line["result"]] == [1, 1]
    assert call("thin", root / "a").exit_code == 2
    thinned = call("thin", root / "a", root / "b", "best")
    assert thinned.exit_code == 0
    assert (root / "a" / "weights-2").is_dir()
    assert (root / "b" / "weights-1").is_dir()


def test_files_that_a_shell_gives_beside_runs_are_no_reference(root: Path, call: Call) -> None:
    done = call("verify", root / "a", root / "b", root / "notes.md")
    assert done.exit_code == 3
    assert "5 checkpoints" not in done.stdout
    assert "notes.md is no directory" in done.stderr
    assert done.stdout.count("verified") == 2


def test_prune_shows_all_plans_before_it_asks_once(root: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything_below(root)
    shown = call("prune", root / "a", root / "b", "--keep", "latest:1")
    assert (shown.exit_code, shown.stderr.count("dry run")) == (0, 1)
    assert everything_below(root) == before

    asked: list[str] = []
    monkeypatch.setattr("keepstep.cli.drawing.render.Output.can_ask", True)
    monkeypatch.setattr("keepstep.cli.drawing.render.click.confirm", lambda text, **more: asked.append(text) or True)
    done = call("prune", root / "a", root / "b", "--keep", "latest:1")
    assert asked == ["Remove 3 checkpoints in 2 runs?"]
    assert done.stdout.count("freed") == 2
    left = [path.name for run in ("a", "b") for path in (root / run).iterdir() if parse_name(path.name)]
    assert left == ["checkpoint-3", "checkpoint-2"]


def test_prune_from_a_script(root: Path, call: Call) -> None:
    before = everything_below(root / "deeper")
    done = call("prune", "--root", root, "--keep", "latest:1", "--yes", "--format", "json")
    lines = _lines(done.stdout)
    assert [line.get("result", {}).get("removed") for line in lines] == [[1, 2], [1], None]
    assert "adopt" in lines[2]["error"]["hint"]
    assert done.exit_code != 0
    assert everything_below(root / "deeper") == before


def test_sorting_limits_and_columns(root: Path, call: Call) -> None:
    rows = _lines(call("ls", "--root", root, "--sort", "metric", "--limit", "1", "--format", "json").stdout)
    assert [row["run"] for row in rows] == [str(root / "b")]
    assert [r["run"] for r in _lines(call("ls", "--root", root, "--since", "2d", "--format", "json").stdout)] == _runs(
        root
    )[:2]
    shown = call("ls", root / "a", "--limit", "2", "--columns", "step,size").stdout
    assert [line.split() for line in shown.splitlines()] == [["Step", "Size"], ["2", "1.0", "kB"], ["3", "1.0", "kB"]]
    best = json.loads(call("ls", root / "a", "--sort", "metric", "--columns", "step", "--format", "json").stdout)
    assert best == [{"step": 2}, {"step": 3}, {"step": 1}]
    assert call("ls", root / "a", "--columns", "nope").exit_code == 2
    assert call("ls", "--root", root, "--watch").exit_code == 2


def test_du_and_metrics_take_roots_and_patterns(root: Path, call: Call) -> None:
    assert call("du", "--root", root).stdout == call("du", root).stdout == call("du", "--root", root).stdout
    assert len(json.loads(call("du", f"{root}/[ab]", "--format", "json").stdout)["runs"]) == 2
    assert call("du").exit_code == call("metrics").exit_code == 2
    assert call("metrics", "--root", root).exit_code == 0


def test_a_stock_run_by_checkpoint(root: Path, call: Call) -> None:
    shown = call("du", root / "deeper" / "stock").stdout
    assert [line.split()[0] for line in shown.splitlines()[:3]] == ["Step", "2", "4"]
    assert "not managed" in shown
