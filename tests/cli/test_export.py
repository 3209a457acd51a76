"""Tests of `keepstep export` as it is typed: arguments, refusals, and what a dry run shows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keepstep.run import Run
from tests.cli.conftest import Call
from tests.operations.test_export import MODEL, _save


@pytest.fixture
def run(tmp_path: Path) -> Run:
    for step in (10, 20):
        _save(tmp_path / "run", MODEL, step)
    return Run.open(tmp_path / "run")


def test_a_dry_run_shows_every_file_and_writes_nothing(run: Run, tmp_path: Path, call: Call) -> None:
    done = call("export", run.path, "10", tmp_path / "out", "--dry-run")
    assert done.exit_code == 0
    assert "model of step 10 would be written to" in done.stdout
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["optimizer.pt", "-", "left", "out:", "of", "the", "training"] in lines
    assert ["config.json", "2", "B", "copied"] in lines
    assert "Nothing was written." in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    shown = json.loads(call("export", run.path, "10", tmp_path / "out", "--dry-run", "--format", "json").stdout)
    assert (shown["steps"], shown["left_out"]) == ([10], {"optimizer.pt": "of the training"})


def test_ref_is_left_out_with_an_average_alone(run: Run, tmp_path: Path, call: Call) -> None:
    done = call("export", run.path, tmp_path / "out", "--average", "best:2", "--dry-run")
    assert f"model of step 10, 20 would be written to {tmp_path / 'out'}" in done.stdout
    done = call("export", run.path, "20", tmp_path / "out", "--average", "best:2", "--dry-run")
    assert "model of step 20, 10 would" in done.stdout
    done = call("export", run.path, tmp_path / "out")
    assert (done.exit_code, "Missing argument 'DIR'" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["77", "out"], 3, "has no checkpoint of step 77"),
        (["best", "."], 2, "holds the run"),
        (["best", "out", "--max-shard-size", "5"], 2, "has no unit"),
        (["best", "out", "--private"], 2, "go with --push"),
        (["best", "out", "--dtype", "int8"], 2, "'int8' is not one of 'bf16', 'fp16', 'fp32'"),
        (["best", "out", "--merge"], 1, "there is no adapter to merge"),
        (["best", "out", "--base", "x"], 1, "has no base"),
        (["best", "out", "--soup", "greedy"], 2, "made of several"),
        (["best", "out", "--average", "10"], 1, "an average needs two"),
        (["best", "run/run.txt"], 1, "is a file"),
    ],
)
def test_refusals(
    run: Run, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, *, arguments: list[str], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (run.path / "run.txt").write_text("")
    done = call("export", run.path, *arguments)
    assert (done.exit_code, said in done.stderr, done.stdout) == (code, True, ""), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_without_the_extra_it_says_what_to_install(
    run: Run, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepstep.cli.commands.export.find_spec", lambda name: None)
    done = call("export", run.path, "10", tmp_path / "out")
    assert done.exit_code == 2 and "needs torch, transformers, safetensors, huggingface_hub" in done.stderr
    assert done.stderr.endswith('Install it: pip install "keepstep[hf]"\n')


def test_a_directory_that_is_not_empty_needs_force(run: Run, tmp_path: Path, call: Call) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    for options, said in [
        ([], "is not empty\n  Name a new directory."),
        (["--force"], "no export of keepstep made it"),
    ]:
        done = call("export", run.path, "best", tmp_path / "out", *options)
        assert (done.exit_code, said in done.stderr) == (1, True)
    assert (tmp_path / "out" / "mine").exists()


def test_a_thinned_checkpoint_says_how_to_leave_with_it(run: Run, call: Call) -> None:
    assert call("thin", run.path, "10").exit_code == 0
    done = call("resume", run.path, "--ref", "10")
    assert f"keepstep export {run.path} 10 DIR" in done.stderr
    done = call("thin", run.path, "10")
    assert f"keepstep export {run.path} 10 DIR" in done.stderr
