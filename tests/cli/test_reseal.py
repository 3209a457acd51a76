"""Tests of `keepstep reseal`."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from keepstep.checkpointer import Facts
from keepstep.run import Run
from tests.cli.conftest import Call
from tests.operations.runs import training
from tests.operations.test_export import weights

CONFIG = b'{"hidden_size": 8}'


def write(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(weights())
    (directory / "config.json").write_bytes(CONFIG)
    (directory / "optimizer.pt").write_bytes(b"o" * 100)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    with training(tmp_path / "run") as checkpointer:
        for step in (1, 2):
            checkpointer.save(Facts(step, metrics={"eval_loss": 1 / step}), write)
    return Run.open(tmp_path / "run")


def newest(run: Run) -> Path:
    return run.path / "checkpoint-2"


def edit(run: Run) -> None:
    (newest(run) / "config.json").write_bytes(b'{"hidden_size": 9}')
    (newest(run) / "ema.pt").write_bytes(b"average")


def test_a_dry_run_shows_both_digests_and_changes_nothing(run: Run, call: Call) -> None:
    edit(run)
    before = (newest(run) / "keepstep.json").read_bytes()
    for options in (["--dry-run"], []):
        result = call("reseal", run.path, "2", *options)
        assert result.exit_code == 0
        assert "config.json" in result.stdout and "rewritten" in result.stdout
        assert result.stdout.count("xxh3-128:") == 3
        assert "added, extra" in result.stdout
        assert (newest(run) / "keepstep.json").read_bytes() == before
    assert "add --yes to seal" in result.stderr
    assert call("verify", run.path).exit_code == 1


def test_both_digests_are_on_a_narrow_terminal_too(run: Run, call: Call) -> None:
    edit(run)
    shown = call("reseal", run.path, "2", "--dry-run", "--format", "human", env={"COLUMNS": "80"}).stdout
    old = next(file.digest for file in run.find(2).files if file.path == "config.json")
    assert old in shown and shown.count("xxh3-128:") == 3


def test_it_takes_over_what_was_shown(run: Run, call: Call) -> None:
    edit(run)
    assert call("verify", run.path).exit_code == 1
    before = run.find(2)

    result = call("reseal", run.path, "2", "--yes")

    assert (result.exit_code, "Sealed: checkpoint-2 holds as it is now." in result.stdout) == (0, True)
    assert call("verify", run.path).exit_code == 0
    after = run.find(2)
    assert (after.generation, after.created, after.metrics) == (before.generation, before.created, before.metrics)
    (event,) = [event for event in run.events.read() if event["event"] == "sealed"]
    assert (event["by"], event["added"]) == (["keepstep reseal"], ["ema.pt"])
    assert event["rewritten"][0]["before"] == next(f.digest for f in before.files if f.path == "config.json")
    assert run.events.damaged() == set()
    assert call("resume", run.path).stdout.strip() == str(newest(run))
    assert "added: ema.pt; rewritten: config.json; by keepstep reseal" in call("events", run.path).stdout
    assert "others" in call("show", run.path, "2").stdout


def test_nothing_to_take_over(run: Run, call: Call) -> None:
    result = call("reseal", run.path, "2", "--yes")
    assert (result.exit_code, "Nothing to take over" in result.stdout) == (0, True)


def test_a_removed_optimizer_leaves_weights(run: Run, call: Call) -> None:
    (newest(run) / "optimizer.pt").unlink()
    result = call("reseal", run.path, "2", "--yes")
    assert "It would hold weights only: optimizer.pt is missing, which a resume needs." in result.stdout
    assert run.find(2).lost == ("optimizer.pt",)
    assert call("resume", run.path, "--ref", "2").exit_code == 7
    assert call("resume", run.path).stdout.strip() == str(run.path / "checkpoint-1")


def cut_weights(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(weights()[:-1])


def no_weights(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def empty_weights(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"")


def no_safetensors(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")


def no_json(directory: Path) -> None:
    (directory / "config.json").write_text("{,}")


def no_config(directory: Path) -> None:
    (directory / "config.json").unlink()


def a_link(directory: Path) -> None:
    (directory / "config.json").rename(directory.parent / "elsewhere.json")
    (directory / "config.json").symlink_to(directory.parent / "elsewhere.json")


def a_planted_link(directory: Path) -> None:
    (directory / "pytorch_model.bin").symlink_to("/etc/passwd")


def cut_zip(directory: Path) -> None:
    with zipfile.ZipFile(directory / "optimizer.pt", "w") as file:
        file.writestr("data.pkl", b"x" * 1000)
    data = (directory / "optimizer.pt").read_bytes()
    (directory / "optimizer.pt").write_bytes(data[:-30])


def missing_shard(directory: Path) -> None:
    index = {"weight_map": {"w": "model-00001-of-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (cut_weights, "its header speaks of"),
        (no_weights, "no other weights are left"),
        (empty_weights, "model.safetensors is empty"),
        (no_safetensors, "is no safetensors file"),
        (no_json, "config.json is no JSON"),
        (no_config, "nothing loads the weights without it"),
        (a_link, "config.json is a link"),
        (a_planted_link, "pytorch_model.bin is a link"),
        (cut_zip, "optimizer.pt is cut off"),
        (missing_shard, "names model-00001-of-00002.safetensors, and that is not there"),
    ],
)
def test_what_no_loader_reads_any_more_is_refused(run: Run, call: Call, spoil: object, why: str) -> None:
    assert callable(spoil)
    spoil(newest(run))
    (newest(run) / "ema.pt").write_bytes(b"something to seal")
    before = (newest(run) / "keepstep.json").read_bytes()
    assert why in call("reseal", run.path, "2", "--dry-run").stdout

    result = call("reseal", run.path, "2", "--yes")

    assert result.exit_code == 1
    assert why in result.stderr and "stays damage" in result.stderr
    assert (newest(run) / "keepstep.json").read_bytes() == before


def test_it_is_refused_while_a_training_runs(run: Run, call: Call) -> None:
    with training(run.path):
        edit(run)
        assert call("reseal", run.path, "2", "--dry-run").exit_code == 0
        assert call("reseal", run.path, "2", "--yes").exit_code == 5


def test_json(run: Run, call: Call) -> None:
    edit(run)
    shown = json.loads(call("reseal", run.path, "2", "--format", "json").stdout)
    assert (shown["applied"], shown["step"], shown["refused"]) == (False, 2, [])
    assert [(one["path"], one["before"]["size_bytes"]) for one in shown["rewritten"]] == [("config.json", len(CONFIG))]
    assert [(one["path"], one["by"]) for one in shown["added"]] == [("ema.pt", "others")]
    done = json.loads(call("reseal", run.path, "2", "--yes", "--format", "json").stdout)
    assert done["applied"] is True and done["manifest_before"] == shown["manifest_before"]


def test_one_that_was_moved_aside_is_named_by_its_path(run: Run, call: Call) -> None:
    edit(run)
    assert call("verify", run.path, "--quarantine").exit_code == 1
    (where,) = (run.path / ".keepstep" / "quarantine").glob("*/checkpoint-2")
    result = call("reseal", run.path, where, "--yes")
    assert (result.exit_code, f"Bring it back: keepstep restore {run.path} gen:2" in result.stdout) == (0, True)
    assert call("restore", run.path, "gen:2", "--yes").exit_code == 0
    assert call("resume", run.path).stdout.strip() == str(newest(run))


def test_an_unknown_one(run: Run, call: Call) -> None:
    assert call("reseal", run.path, "7").exit_code == 3
