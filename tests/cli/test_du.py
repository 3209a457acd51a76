"""Tests of `keepstep du`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keepstep.run import Run
from tests.cli.conftest import Call
from tests.operations.runs import SIZE, make_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "runs" / "a", {1: 0.1, 2: 0.2, 3: 0.3})


def _steps(text: str) -> list[int]:
    return [row["step"] for row in json.loads(text)["runs"][0]["by_checkpoint"]]


def test_one_run_by_checkpoint(run: Run, call: Call) -> None:
    shown = call("du", run.path).stdout
    lines = [line.split() for line in shown.splitlines()]
    assert ["Step", "Size", "Weights", "Optimizer", "Thin", "frees"] in lines
    assert ["1", "1.0", "kB", "900", "B", "100", "B", "100", "B"] in lines
    assert "thinning all of 2 checkpoints that may be frees 200 B." in shown


def test_runs_below_a_root(tmp_path: Path, run: Run, call: Call) -> None:
    make_run(tmp_path / "runs" / "b", {1: 0.1})
    (tmp_path / "runs" / "stock" / "checkpoint-5").mkdir(parents=True)
    (tmp_path / "runs" / "stock" / "checkpoint-5" / "model.safetensors").write_bytes(b"w" * 5000)

    shown = call("du", tmp_path / "runs", "--sort", "size")

    rows = [line.split()[0] for line in shown.stdout.splitlines() if line.startswith("/")]
    assert rows == [str(tmp_path / "runs" / name) for name in ("a", "b", "stock")]
    assert "2 runs and 1 directory that keepstep does not manage" in shown.stdout
    assert "stock is not managed: checkpoints that belong to no run" in shown.stderr


@pytest.mark.parametrize(("sort", "steps"), [("name", [1, 2, 3]), ("size", [2, 1, 3]), ("frees", [2, 1, 3])])
def test_sorting(run: Run, call: Call, sort: str, steps: list[int]) -> None:
    file = run.path / ".keepstep" / "run.json"
    file.write_text(file.read_text().replace('"all"', '"best:1,latest:1"'))
    (run.path / "checkpoint-2" / "more").write_bytes(b"x" * 5)

    shown = call("du", run.path, "--sort", sort, "--check", "--format", "json").stdout

    assert _steps(shown) == steps


def test_a_terminal_gets_bars(run: Run, call: Call) -> None:
    shown = call("du", run.path, "--format", "human").stdout
    assert "█" * 22 + "▓▓" in shown
    assert "█ weights   ▓ optimizer" in shown
    assert "█" not in call("du", run.path).stdout


def test_a_narrow_terminal_keeps_what_matters(run: Run, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    shown = call("du", run.path, "--format", "human").stdout
    assert max(map(len, shown.splitlines())) <= 30
    assert "Size" in shown


def test_check_says_what_differs(run: Run, call: Call) -> None:
    (run.path / "checkpoint-2" / "optimizer.pt").unlink()
    assert call("du", run.path).stderr == ""
    shown = call("du", run.path, "--check")
    assert "checkpoint-2 lists 1.0 kB, and 900 B are there: keepstep verify" in shown.stderr
    assert "Allocated" in shown.stdout


def test_json(run: Run, call: Call) -> None:
    shown = json.loads(call("du", run.path, "--format", "json").stdout)
    assert shown["kinds"]["weights"] == 3 * (SIZE - 100)
    assert shown["runs"][0]["frees"]["thin_bytes"] == 200
    assert shown["allocated_bytes"] is None


def test_a_name_can_not_act_on_the_terminal(tmp_path: Path, call: Call) -> None:
    evil = tmp_path / "\x1b[2Jstock"
    (evil / "checkpoint-5").mkdir(parents=True)
    for arguments in ((), ("--format", "human")):
        shown = call("du", tmp_path, *arguments)
        assert "\x1b[2J" not in shown.stdout + shown.stderr


@pytest.mark.parametrize(
    ("arguments", "code"), [(["nothing"], 3), ([], 2), ([".", "--sort", "age"], 2), ([".", "--format", "xml"], 2)]
)
def test_wrong_usage(
    tmp_path: Path, call: Call, arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call("du", *arguments).exit_code == code


def test_a_place_without_any_run(tmp_path: Path, call: Call) -> None:
    (tmp_path / "notes.txt").write_text("no run")
    for form in ("human", "json", "agent"):
        result = call("du", tmp_path, "--format", form)
        assert (result.exit_code, result.stdout) == (3, "")
        assert f"there is no run in or below {tmp_path}" in result.stderr
    (tmp_path / "stock" / "checkpoint-5").mkdir(parents=True)
    assert "1 directory that keepstep does not manage" in call("du", tmp_path).stdout


def test_other_writers_checkpoints_have_their_writer(tmp_path: Path, call: Call) -> None:
    place = tmp_path / "lightning_logs" / "version_0" / "checkpoints"
    place.mkdir(parents=True)
    (place / "epoch=0-step=8.ckpt").write_bytes(b"l" * 700)
    (tmp_path / "checkpoint_3").mkdir()
    (tmp_path / "checkpoint_3" / "optimizer.bin").write_bytes(b"o" * 900)
    shown = call("du", tmp_path)
    assert shown.exit_code == 0
    rows = [" ".join(line.split()) for line in shown.stdout.splitlines()]
    assert f"{place / 'epoch=0-step=8.ckpt'} Lightning 8 700 B" in rows
    assert f"{tmp_path / 'checkpoint_3'} Accelerate (save_state) 3 900 B" in rows
    document = json.loads(call("du", tmp_path, "--format", "json").stdout)
    assert [one["by_checkpoint"][0]["writer"] for one in document["stock"]] == ["Accelerate (save_state)", "Lightning"]
    assert "\tLightning\t700" in call("du", tmp_path, "--format", "agent").stdout
