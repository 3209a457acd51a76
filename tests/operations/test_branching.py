"""New runs from checkpoints, on real files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from keepstep.checkpointer import Facts
from keepstep.errors import CheckpointCorrupt, DiskFull, ResumeRefused, RunInUse, StorageError
from keepstep.model import Kind
from keepstep.operations.branching import branch, plan_branch
from keepstep.run import Origin, Run, open_run
from keepstep.stores import LocalStore, Room
from tests.operations.runs import SIZE, flip, make_run, training, write


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {100: 0.5, 200: 0.25, 300: 0.4}, keep="best:2:full,latest:3")


def bytes_below(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def test_a_branch_is_a_run_that_begins_with_the_checkpoint(run: Run, tmp_path: Path) -> None:
    before = bytes_below(run.path / "checkpoint-200")

    held: list[set[int]] = []

    new = branch(plan_branch(run, "best", tmp_path / "deep" / "new"), on_start=lambda _: held.append(set(run.held)))

    assert held == [{2}, {2}]
    found = Run.open(tmp_path / "deep" / "new")
    origin = Origin(run.id, 2, 200, str(run.path))
    assert found.id == new.id != run.id
    assert found.rebuilt is None and found.file.branched == origin
    assert found.policy == run.policy
    (one,) = found.checkpoints
    assert (one.step, one.generation, one.timeline, one.parent) == (200, 1, 1, None)
    assert one.metrics["eval_loss"] == 0.25
    assert found.verify(one).ok
    assert found.resume_point().checkpoint.step == 200
    assert os.path.samefile(run.path / "checkpoint-200/model.safetensors", one.path / "model.safetensors")  # type: ignore[operator]
    assert bytes_below(run.path / "checkpoint-200") == before
    assert [e["event"] for e in found.events.read()] == ["run", "branched", "committed"]
    assert not run.held
    event = list(run.events.read())[-1]
    assert (event["event"], event["generation"], event["into_run"]) == ("branched", 2, new.id)


def test_each_goes_on_by_itself(run: Run, tmp_path: Path) -> None:
    branch(plan_branch(run, 200, tmp_path / "new"))
    with training(tmp_path / "new", keep="latest:1") as checkpointer:
        checkpointer.save(Facts(250, metrics={"eval_loss": 0.1}), write)
    new = Run.open(tmp_path / "new")
    assert [c.step for c in new.checkpoints] == [250]
    assert new.checkpoints[0].parent == 1
    assert new.file.branched is not None and new.file.branched.step == 200  # a training's policy leaves it
    assert [c.step for c in Run.open(run.path).checkpoints] == [100, 200, 300]
    assert Run.open(run.path).verify(Run.open(run.path).find(200)).ok


def test_what_others_took_out_of_their_own_is_not_missed(run: Run, tmp_path: Path) -> None:
    theirs = run.path / "checkpoint-200" / "notes.md"
    theirs.write_text("mine")
    with run.writing():
        run.seal(run.find(200))
    theirs.unlink()
    new = branch(plan_branch(run, 200, tmp_path / "new"))
    assert new.verify(new.checkpoints[0]).ok
    assert sorted(file.path for file in new.checkpoints[0].files) == ["model.safetensors", "optimizer.pt"]


def test_without_run_json_the_manifest_knows_where_it_came_from(run: Run, tmp_path: Path) -> None:
    branch(plan_branch(run, 200, tmp_path / "new"))
    (tmp_path / "new" / ".keepstep" / "run.json").unlink()
    assert Run.open(tmp_path / "new").file.branched == Origin(run.id, 2, 200, str(run.path))


def test_where_there_are_no_links_it_is_copied_and_checked(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalStore, "link_from", lambda *_: False)
    heard: list[int] = []
    new = branch(plan_branch(run, 200, tmp_path / "new"), on_bytes=heard.append)
    assert sum(heard) == 2 * SIZE  # verified, and copied
    assert new.verify(new.checkpoints[0]).ok
    assert not os.path.samefile(run.path / "checkpoint-200/optimizer.pt", new.path / "checkpoint-200/optimizer.pt")


def test_what_cannot_be_gone_on_from_begins_nothing(run: Run, tmp_path: Path) -> None:
    thin = make_run(tmp_path / "thin", {1: 0.5}, kind=Kind.WEIGHTS)
    with pytest.raises(ResumeRefused, match="weights only"):
        plan_branch(thin, 1, tmp_path / "new")
    flip(run.path / "checkpoint-100" / "model.safetensors")
    with pytest.raises(CheckpointCorrupt, match="digest differs"):
        branch(plan_branch(run, 100, tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    for taken in (run.path, tmp_path / "thin", run.path / ".keepstep" / "new", run.path / "checkpoint-200" / "new"):
        with pytest.raises(RunInUse):
            plan_branch(run, 200, taken)


def test_what_does_not_fit_is_said_before(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_branch(run, 200, tmp_path / "new")
    assert plan.links and plan.reads_bytes == SIZE
    shm = Path("/dev/shm")
    if not shm.is_dir() or shm.stat().st_dev == run.path.stat().st_dev:
        pytest.skip("needs a second file system")
    other = shm / f"keepstep-branch-{os.getpid()}"
    assert not plan_branch(run, 200, other).links
    monkeypatch.setattr(LocalStore, "room", lambda _: Room(10, None, 100))
    with pytest.raises(DiskFull, match="10 B free"):
        plan_branch(run, 200, other)


KILLED = """
import os, sys
from pathlib import Path
from keepstep.operations.branching import branch, plan_branch
from keepstep.run import Run
from keepstep.stores import LocalStore, Room
at, run, new = sys.argv[1:]
seen = 0
def counted(method):
    def call(self, *arguments, **options):
        global seen
        if self.root == Path(new):
            seen += 1
            if seen == int(at):
                os._exit(9)
        return method(self, *arguments, **options)
    return call
for name in ("link_from", "make_directory", "write", "append", "replace", "rename", "sync_directory", "delete"):
    setattr(LocalStore, name, counted(getattr(LocalStore, name)))
branch(plan_branch(Run.open(run), 200, Path(new)))
print("done", seen)
"""


def test_a_kill_at_any_step_leaves_a_whole_run_or_none(run: Run, tmp_path: Path) -> None:
    def child(at: int, new: Path) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", KILLED, str(at), str(run.path), str(new)]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    steps = int(child(10**9, tmp_path / "whole").stdout.split()[1])
    assert steps > 10
    outcomes: set[bool] = set()
    for at in (1, steps // 3, 2 * steps // 3, steps - 2, steps):
        new = tmp_path / f"new-{at}"
        assert child(at, new).returncode == 9
        try:
            plan = plan_branch(run, 200, new)
        except RunInUse:
            outcomes.add(True)
        else:
            outcomes.add(False)
            branch(plan)
        found = open_run(new)
        assert [c.step for c in found.checkpoints] == [200]
        assert found.verify(found.checkpoints[0]).ok
        assert found.file.branched is not None
    assert outcomes == {True, False}


def test_a_disk_that_fails_leaves_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LocalStore, "link_from", full)
    with pytest.raises(StorageError, match="could not be branched off: No space left"):
        branch(plan_branch(run, 200, tmp_path / "new"))
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "new").iterdir()] == [".keepstep"]
    assert branch(plan_branch(run, 200, tmp_path / "new")).checkpoints[0].step == 200


def test_a_checkpoint_that_others_wrote_gets_digests(tmp_path: Path) -> None:
    stock = tmp_path / "stock" / "checkpoint-5"
    stock.mkdir(parents=True)
    for name in ("optimizer.pt", "scheduler.pt", "model.safetensors"):
        (stock / name).write_bytes(b"\x80" + name.encode())
    save_file({"a": torch.ones(3)}, stock / "model.safetensors")
    (stock / "trainer_state.json").write_text(json.dumps({"global_step": 5, "log_history": []}))

    new = branch(plan_branch(open_run(tmp_path / "stock"), "latest", tmp_path / "new"))

    (one,) = new.checkpoints
    assert new.verify(one).ok and new.verify(one).read_bytes == one.size_bytes
    assert new.file.branched == Origin(None, None, 5, str(tmp_path / "stock"))
    assert sorted(p.name for p in (tmp_path / "stock").iterdir()) == ["checkpoint-5"]
