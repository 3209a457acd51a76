"""Tests of `keepstep verify`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keepstep.run import Run
from tests.cli.conftest import Call
from tests.operations.runs import cut_manifest, flip, make_run, training


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {1: 0.1, 2: 0.2, 3: 0.3})


def test_a_good_run(run: Run, call: Call) -> None:
    result = call("verify", run.path)
    assert result.exit_code == 0
    assert "3 checkpoints verified: every byte of 3.0 kB is as written." in result.stdout
    assert [e["ok"] for e in run.events.read() if e["event"] == "verified"] == [True, True, True]


def test_a_problem_is_named_and_the_exit_code_is_1(run: Run, call: Call) -> None:
    flip(run.path / "checkpoint-2" / "model.safetensors")
    (run.path / "checkpoint-2" / "optimizer.pt").unlink()

    result = call("verify", run.path)

    assert result.exit_code == 1
    assert "model.safetensors has other bytes than were written" in result.stdout
    assert "optimizer.pt is missing" in result.stdout
    assert "1 of 3 checkpoints damaged" in result.stdout
    assert f"keepstep verify {run.path} --quarantine" in result.stdout
    assert run.events.damaged() == {2}


def test_one_alone(run: Run, call: Call) -> None:
    flip(run.path / "checkpoint-2" / "model.safetensors")
    assert call("verify", run.path, "3").exit_code == 0
    assert call("verify", run.path, "step:2").exit_code == 1
    assert call("verify", run.path, "9").exit_code == 3


def test_quarantine_says_where(run: Run, call: Call) -> None:
    flip(run.path / "checkpoint-2" / "model.safetensors")

    result = call("verify", run.path, "--quarantine")

    assert result.exit_code == 1
    (where,) = (run.path / ".keepstep" / "quarantine").iterdir()
    assert f"moved to {where / 'checkpoint-2'}" in result.stdout
    assert call("verify", run.path).exit_code == 0


def test_quarantine_needs_the_lock_and_reading_does_not(run: Run, call: Call) -> None:
    with training(run.path):
        assert call("verify", run.path).exit_code == 0
        locked = call("verify", run.path, "--quarantine")
    assert locked.exit_code == 5
    assert "in use by process" in locked.stderr


def test_a_damaged_manifest_is_a_problem(run: Run, call: Call) -> None:
    cut_manifest(run.path / "checkpoint-3")

    result = call("verify", run.path, "--quarantine")

    assert result.exit_code == 1
    assert "keepstep.json is not JSON" in result.stdout
    assert "left where it is" in result.stdout
    assert (run.path / "checkpoint-3").is_dir()


def test_json(run: Run, call: Call) -> None:
    flip(run.path / "checkpoint-2" / "optimizer.pt")

    result = call("verify", run.path, "--format", "json")

    assert result.exit_code == 1
    outcomes = json.loads(result.stdout)
    assert [outcome["ok"] for outcome in outcomes] == [True, False, True]
    assert outcomes[1]["problems"][0]["path"] == "optimizer.pt"
    assert outcomes[1]["moved_to"] is None


def test_an_empty_run_has_no_problem(tmp_path: Path, call: Call) -> None:
    result = call("verify", make_run(tmp_path / "empty", {}).path)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no checkpoint yet" in result.stderr


def test_what_is_beside_a_checkpoint_is_listed_and_no_damage(run: Run, call: Call) -> None:
    (run.path / "checkpoint-2" / "ema.pt").write_bytes(b"average")
    for number in range(9):
        (run.path / "checkpoint-2" / f"plot{number}.png").write_bytes(b"12345")
    (run.path / "checkpoint-3" / "link").symlink_to("/etc/passwd")

    result = call("verify", run.path)

    assert result.exit_code == 0
    assert "added: ema.pt (7 B); no loader reads it" in result.stdout
    assert "added: 2 more files (10 B)" in result.stdout
    assert "added: link (a link, not followed); no loader reads it" in result.stdout


def test_what_a_loader_would_read_is_damage(run: Run, call: Call) -> None:
    (run.path / "checkpoint-2" / "pytorch_model.bin").write_bytes(b"planted")

    result = call("verify", run.path)

    assert result.exit_code == 1
    assert (
        "pytorch_model.bin is not in the manifest (an extra file), and from_pretrained would read it" in result.stdout
    )
    assert f"If a person changed it on purpose: keepstep reseal {run.path} 2" in result.stdout


def test_one_without_optimizer_is_good_and_holds_weights(run: Run, call: Call) -> None:
    (run.path / "checkpoint-2" / "optimizer.pt").unlink()

    result = call("verify", run.path)

    assert result.exit_code == 0
    assert "holds weights only: optimizer.pt is missing, which a resume needs" in result.stdout
    assert "every byte of 2.9 kB is as written. Of 1 only the weights are left." in result.stdout
    assert "weights only: optimizer.pt is missing" in call("show", run.path, "2").stdout
    assert "weights" in call("ls", run.path).stdout
    assert "holds weights only: without optimizer.pt" in call("events", run.path).stdout


def test_where_nothing_holds_no_resume_is_suggested(run: Run, call: Call) -> None:
    *others, last = run.checkpoints
    for checkpoint in others:
        flip(run.path / checkpoint.name / checkpoint.files[0].path)
    assert "Find a safe one: keepstep resume" in call("verify", run.path).stdout
    flip(run.path / last.name / last.files[0].path)
    text = call("verify", run.path).stdout
    assert "keepstep resume" not in text
    assert "None of them can be resumed from" in text
    assert "Find a safe one" in call("verify", run.path, "latest").stdout, "of the others nothing was asked"
