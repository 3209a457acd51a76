"""`keepstep mirror`: what each part prints and exits with, over a mirror in a directory."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.conftest import Call
from tests.operations.runs import flip, make_run


def test_a_run_goes_up_and_comes_down(tmp_path: Path, call: Call) -> None:
    run, mirror = make_run(tmp_path / "run", {10: 0.5, 20: 0.4}), tmp_path / "mirror"
    said = call("mirror", "sync", run.path, mirror, "--dry-run")
    assert said.exit_code == 0 and "Would send 2.0 kB" in said.stdout and "steps 20, 10" in said.stdout
    assert not mirror.exists()
    said = call("mirror", "status", run.path, mirror)
    assert said.exit_code == 3 and "no mirror at" in said.stderr and f"keepstep mirror sync RUN {mirror}" in said.stderr
    said = call("mirror", "sync", run.path, mirror)
    assert said.exit_code == 0 and f"Sent 2.0 kB to {mirror}: steps 20, 10." in said.stdout
    assert "lacks nothing" in call("mirror", "sync", run.path, mirror).stdout
    assert "a machine without this disk would lose nothing" in call("mirror", "status", run.path, mirror).stdout
    said = call("mirror", "ls", mirror)
    assert [line.split()[0] for line in said.stdout.splitlines() if line.split()[:1] in (["20"], ["10"])] == [
        "20",
        "10",
    ]
    there = tmp_path / "there"
    assert "Would bring step 20" in call("mirror", "pull", mirror, there, "--dry-run").stdout and not there.exists()
    said = call("mirror", "pull", mirror, there)
    assert said.exit_code == 0 and "every byte compared" in said.stdout
    assert call("resume", there).stdout.strip() == str(there / "checkpoint-20")
    assert "Nothing to bring: it is there already" in call("mirror", "pull", mirror, there).stdout
    assert call("verify", there).exit_code == 0


def test_json(tmp_path: Path, call: Call) -> None:
    run, mirror = make_run(tmp_path / "run", {10: 0.5, 20: 0.4}), tmp_path / "mirror"
    found = json.loads(call("mirror", "sync", run.path, mirror, "--format", "json").stdout)
    assert [row["step"] for row in found["sent"]] == [20, 10] and found["exclusive"] and found["applied"]
    found = json.loads(call("mirror", "status", run.path, mirror, "--format", "json").stdout)
    assert (found["checkpoints"], found["missing"], found["lag_steps"], found["size_bytes"]) == (2, 0, 0, 2000)
    found = json.loads(call("mirror", "ls", mirror, "--format", "json").stdout)
    assert [row["metrics"]["eval_loss"] for row in found["checkpoints"]] == [0.4, 0.5]
    found = json.loads(call("mirror", "pull", mirror, tmp_path / "x", "10", "--format", "json").stdout)
    assert (found["step"], found["applied"], found["path"]) == (10, True, str(tmp_path / "x" / "checkpoint-10"))


def test_what_is_damaged_there_is_found_removed_and_sent_anew(tmp_path: Path, call: Call) -> None:
    run, mirror = make_run(tmp_path / "run", {10: 0.5, 20: 0.4}), tmp_path / "mirror"
    call("mirror", "sync", run.path, mirror)
    assert call("mirror", "verify", mirror).exit_code == 0
    flip(next((mirror / "data").glob("00000002-*/model.safetensors")))
    said = call("mirror", "verify", mirror)
    assert said.exit_code == 4 and "has other bytes than were committed" in said.stdout
    assert "1 of 2 checkpoints damaged in the mirror" in said.stderr
    assert call("mirror", "verify", mirror, "10").exit_code == 0
    assert "and removed" in call("mirror", "verify", mirror, "--drop").stderr
    assert "steps 20." in call("mirror", "sync", run.path, mirror).stdout
    assert call("mirror", "verify", mirror).exit_code == 0


def test_a_damaged_record_is_found_though_it_was_read_before(tmp_path: Path, call: Call) -> None:
    run, mirror = make_run(tmp_path / "run", {10: 0.5, 20: 0.4}), tmp_path / "mirror"
    call("mirror", "sync", run.path, mirror)
    call("mirror", "ls", mirror)
    record = sorted((mirror / "commits").iterdir())[1]
    record.write_bytes(record.read_bytes()[:-20])

    said = call("mirror", "verify", mirror)
    assert said.exit_code == 4 and "gen:1  its record is damaged" in said.stdout
    assert "1 of 2 checkpoints damaged" in said.stderr
    found = json.loads(call("mirror", "verify", mirror, "--format", "json").stdout)
    assert found["damaged_records"] == [f"commits/{record.name}"]
    assert "and removed" in call("mirror", "verify", mirror, "--drop").stderr and not record.exists()
    assert "steps 10." in call("mirror", "sync", run.path, mirror).stdout
    assert call("mirror", "verify", mirror).exit_code == 0


def test_what_rotted_here_is_said_and_the_rest_goes(tmp_path: Path, call: Call) -> None:
    run, mirror = make_run(tmp_path / "run", {10: 0.5, 20: 0.4}), tmp_path / "mirror"
    flip(run.path / "checkpoint-20" / "model.safetensors")
    said = call("mirror", "sync", run.path, mirror)
    assert said.exit_code == 4 and "steps 10." in said.stdout and "not what was committed" in said.stderr


def test_a_mirror_without_its_run_is_pruned(tmp_path: Path, call: Call) -> None:
    run, mirror = make_run(tmp_path / "run", {10: 0.1, 20: 0.4, 30: 0.3}), tmp_path / "mirror"
    call("mirror", "sync", run.path, mirror)
    said = call("mirror", "prune", mirror, "--keep", "best:1,latest:1", "--dry-run")
    assert "Would remove there: steps 20." in said.stdout and "weights alone of: steps 10" in said.stdout
    assert "nothing was removed" in call("mirror", "prune", mirror, "--keep", "best:1,latest:1").stderr, "nobody to ask"
    assert len(json.loads(call("mirror", "ls", mirror, "--format", "json").stdout)["checkpoints"]) == 3
    assert "Removed there: steps 20." in call("mirror", "prune", mirror, "--keep", "best:1,latest:1", "--yes").stdout
    assert call("mirror", "verify", mirror).exit_code == 0


def test_bad_input(tmp_path: Path, call: Call) -> None:
    run, mirror = make_run(tmp_path / "run", {10: 0.5}), tmp_path / "mirror"
    for arguments, code, part in (
        (("sync", run.path, "ftp://host/x"), 2, "can't be at ftp://"),
        (("sync", run.path, tmp_path / "no" / "disk"), 8, "is not there"),
        (("sync", run.path, mirror, "--keep", "bset:1"), 2, "best"),
        (("sync", run.path, mirror, "--bandwidth", "fast"), 2, "--bandwidth"),
        (("pull", mirror, tmp_path / "there"), 3, "no mirror at"),
        (("ls", mirror), 3, "no mirror at"),
    ):
        said = call("mirror", *arguments)
        assert (said.exit_code, part in said.stderr) == (code, True), (arguments, said.stderr)
    call("mirror", "sync", run.path, mirror)
    assert call("mirror", "pull", mirror, tmp_path / "there", "99").exit_code == 3
    other = make_run(tmp_path / "other", {10: 0.5})
    said = call("mirror", "sync", other.path, mirror)
    assert said.exit_code == 5 and f"is the mirror of run {run.id}" in said.stderr
