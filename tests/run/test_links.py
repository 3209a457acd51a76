"""`best` and `latest` as links: kept right by all that changes a run, never in the way of a user's own, never read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keepstep import layout
from keepstep.checkpointer import Checkpointer
from keepstep.errors import CheckpointNotFound
from keepstep.operations.removing.pruning import plan_for, prune_as_shown
from keepstep.operations.seeing.finding import search
from keepstep.operations.usage import usage
from keepstep.retention import Policy
from keepstep.run import Run
from keepstep.run import links as links_module
from tests.operations.runs import flip, training, write
from tests.small_run import LOSS, litter, save


def begun(path: Path, keep: str = "all", resume: Any = "auto", *, links: bool = True, **more: Any) -> Checkpointer:
    checkpointer = Checkpointer(path, Policy.from_spec(keep, LOSS), links=links, **more)
    checkpointer.begin(resume)
    return checkpointer


def made(path: Path, losses: dict[int, float | None], keep: str = "all", *, links: bool = True) -> Run:
    checkpointer = begun(path, keep, links=links)
    for step, loss in losses.items():
        save(checkpointer, step, loss)
    checkpointer.close()
    return Run.open(path)


def links(path: Path) -> dict[str, str]:
    return {name: os.readlink(path / name) for name in ("best", "latest") if (path / name).is_symlink()}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """The best is step 2."""
    return made(tmp_path / "run", {1: 0.5, 2: 0.2, 3: 0.3})


def test_they_lead_to_the_best_and_the_newest(run: Run) -> None:
    assert links(run.path) == {"best": "checkpoint-2", "latest": "checkpoint-3"}
    assert (run.path / "best" / "keepstep.json").exists()
    moved = run.path.rename(run.path.with_name("moved"))
    assert (moved / "latest" / "keepstep.json").exists(), "relative: a run can be moved"


def test_without_the_request_there_are_none(tmp_path: Path) -> None:
    run = made(tmp_path / "run", {1: 0.5}, links=False)
    assert links(run.path) == {}
    assert not (run.path / layout.LINKS).exists()


def test_off_they_are_removed(run: Run) -> None:
    begun(run.path, links=False).close()
    assert links(run.path) == {}
    assert not (run.path / layout.LINKS).exists()
    begun(run.path).close()
    assert links(run.path) == {"best": "checkpoint-2", "latest": "checkpoint-3"}


def test_without_a_metric_there_is_no_best(tmp_path: Path) -> None:
    run = made(tmp_path / "run", {1: None})
    assert links(run.path) == {"latest": "checkpoint-1"}


def test_a_late_value_moves_the_best(run: Run) -> None:
    Run.open(run.path).record_metrics(3, {"eval_loss": 0.1})
    assert links(run.path)["best"] == "checkpoint-3"


def test_they_follow_what_is_removed_by_a_training(tmp_path: Path) -> None:
    run = made(tmp_path / "run", {1: 0.1, 2: 0.2, 3: 0.3}, "latest:1")
    assert links(run.path) == {"best": "checkpoint-3", "latest": "checkpoint-3"}


def test_they_follow_a_prune_from_outside(run: Run) -> None:
    policy = Policy.from_spec("latest:1", LOSS)
    prune_as_shown(run, policy, plan_for(run, policy))
    assert links(run.path) == {"best": "checkpoint-3", "latest": "checkpoint-3"}


def test_they_lead_to_the_weights_that_are_left_of_one(tmp_path: Path) -> None:
    with training(tmp_path / "run") as checkpointer:
        checkpointer.run.switch_links(True)
        from keepstep.checkpointer import Facts

        for step, loss in ((1, 0.1), (2, 0.2)):
            checkpointer.save(Facts(step, metrics={"eval_loss": loss}), write)
        run = checkpointer.run
        run.thin(run.find(1), "asked for")
        assert links(run.path) == {"best": "weights-1", "latest": "checkpoint-2"}


def test_they_follow_quarantine_and_known_damage(run: Run) -> None:
    flip(run.path / "checkpoint-2" / "model.bin")
    verification = run.verify(run.find(2))
    run.note_verified(verification)
    assert links(run.path) == {"best": "checkpoint-3", "latest": "checkpoint-3"}
    flip(run.path / "checkpoint-2" / "model.bin")
    run.note_verified(run.verify(run.find(2)))
    assert links(run.path)["best"] == "checkpoint-2", "it holds again"
    with run.writing():
        run.quarantine(verification)
    assert links(run.path)["best"] == "checkpoint-3"


def watching_moves(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of links that lead to nothing, looked at around every rename of a checkpoint's directory."""
    dangling: list[str] = []
    move = type(run.repository)._move

    def watched(self: Any, *arguments: str) -> str:
        moved = move(self, *arguments)
        dangling.extend(name for name in links(run.path) if not (run.path / name).exists())
        return moved

    monkeypatch.setattr(type(run.repository), "_move", watched)
    return dangling


def test_they_follow_a_rewind(run: Run) -> None:
    checkpointer = begun(run.path, resume=1)
    assert links(run.path) == {"best": "checkpoint-1", "latest": "checkpoint-1"}
    checkpointer.close()


def test_they_follow_a_restore(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpointer = begun(run.path, resume=1)
    save(checkpointer, 3, 0.01)
    checkpointer.close()
    dangling = watching_moves(run, monkeypatch)
    with run.writing():
        run.bring_back(run.way_back(run.find("gen:3", aside=True)))
    assert [checkpoint.generation for checkpoint in run.checkpoints] == [1, 2, 3]
    assert links(run.path)["latest"] == "checkpoint-3"
    assert run.best is not None
    assert links(run.path)["best"] == run.best.name
    assert dangling == []


def test_they_follow_the_run_that_comes_back(run: Run) -> None:
    before = links(run.path)
    begun(run.path, resume=None, fresh="new-run").close()
    now = Run.open(run.path)
    with now.writing(), now.before(now.previous_runs.runs[0]).writing() as previous:
        now.change_places(previous)
    Run.open(run.path).point_links()
    assert links(run.path) == before


def test_a_fresh_start_has_none_until_it_saves(run: Run) -> None:
    checkpointer = begun(run.path, resume=None, fresh="new-run")
    assert links(run.path) == {}
    save(checkpointer, 7, 0.9)
    assert links(run.path) == {"best": "checkpoint-7", "latest": "checkpoint-7"}
    checkpointer.close()


def test_no_link_ever_leads_to_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    dangling = watching_moves(run, monkeypatch)
    with run.writing():
        run.remove(run.find(2), "asked for")
        run.remove(run.find(3), "asked for")
    assert links(run.path) == {"best": "checkpoint-1", "latest": "checkpoint-1"}
    begun(run.path, resume=1).close()
    assert dangling == []


def _file(path: Path) -> None:
    path.write_text("mine")


def _directory(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("mine")


def _elsewhere(path: Path) -> None:
    path.symlink_to("/nowhere")


def _like_ours(path: Path) -> None:
    path.symlink_to("checkpoint-1")


def _seen(path: Path) -> tuple[int, int, int]:
    found = os.lstat(path)
    return found.st_ino, found.st_mode, found.st_mtime_ns


@pytest.mark.parametrize("make", [_file, _directory, _elsewhere, _like_ours])
def test_what_is_a_users_own_is_never_touched_and_said_once(
    tmp_path: Path, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run"
    path.mkdir()
    make(path / "best")
    before = _seen(path / "best")

    run = made(path, {1: 0.5, 2: 0.2})

    assert _seen(path / "best") == before
    assert links(path)["latest"] == "checkpoint-2"
    assert [r.getMessage() for r in caplog.records if "is not keepstep's" in r.getMessage()] == [
        f"{path / 'best'} is not keepstep's: it stays, and no link takes its place"
    ]
    begun(run.path, links=False).close()
    assert _seen(path / "best") == before
    assert not os.path.lexists(path / "latest")


def test_one_that_took_the_place_of_ours_is_left_alone(run: Run) -> None:
    (run.path / "best").unlink()
    (run.path / "best").symlink_to("/nowhere")
    checkpointer = begun(run.path)
    save(checkpointer, 4, 0.01)
    checkpointer.close()
    assert os.readlink(run.path / "best") == "/nowhere"


def test_a_disk_without_links_costs_nothing_but_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(links_module.os, "symlink", refuse)
    run = made(tmp_path / "run", {1: 0.5, 2: 0.2})
    assert [c.step for c in run.checkpoints] == [1, 2]
    assert sum("could not be made" in r.getMessage() for r in caplog.records) == 2, "one for each name"


def test_what_a_kill_left_of_a_link_is_cleared(run: Run) -> None:
    (run.path / layout.META / ".best.0123abcd.tmp").symlink_to("checkpoint-1")
    with run.writing():
        pass
    assert litter(run.path) == []
    assert links(run.path)["best"] == "checkpoint-2"


def test_nothing_is_read_from_them(run: Run, tmp_path: Path) -> None:
    """Listing, sizes, search and references are the same with links, without, and with wrong ones."""
    plain = made(tmp_path / "plain", {1: 0.5, 2: 0.2, 3: 0.3}, links=False)
    (run.path / "best").unlink()
    (run.path / "best").symlink_to("checkpoint-1")
    assert run.best is not None and run.best.step == 2
    assert run.find("best").step == 2
    assert run.foreign == ()
    assert run.find(run.path / "latest").step == 3, "a path is a path"
    assert search(run.path) == type(search(run.path))((run.path,), (), ())
    ours, theirs = usage(run), usage(plain)
    assert [share.kinds for share in ours.shares] == [share.kinds for share in theirs.shares]
    assert (ours.litter, ours.unmanaged) == (theirs.litter, theirs.unmanaged) == ((), ())
    for checkpoint in list(run.checkpoints):
        with run.writing():
            run.remove(checkpoint, "asked for")
    assert links(run.path) == {}
    with pytest.raises(CheckpointNotFound):
        run.find("latest")
