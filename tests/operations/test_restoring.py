"""Bringing back: what is shown, what is verified first, what is refused, and that what was shown is what is done."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from keepstep import layout
from keepstep.checkpointer import Facts
from keepstep.errors import CheckpointNotFound, RunLocked
from keepstep.model import Kind
from keepstep.operations.resealing.reseal import plan_reseal, reseal
from keepstep.operations.restoring import (
    CourseBack,
    RestoreChanged,
    RestoreRefused,
    RunBack,
    lying_aside,
    plan_restore,
    restore,
)
from keepstep.run import Run
from tests.small_run import FILES, make_checkpointer, make_run, save, steps, writer


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """2, 4, then 6, 8 (generations 3, 4), set aside, and 6, 7 (5, 6)."""
    path = tmp_path / "run"
    make_run(path, 2, 4, 6, 8)
    checkpointer = make_checkpointer(path)
    checkpointer.begin(4)
    save(checkpointer, 6, 0.1)
    save(checkpointer, 7, 0.05)
    checkpointer.close()
    return Run.open(path)


def course(run: Run, reference: str | None, timeline: int | None = None) -> CourseBack:
    found = plan_restore(run, reference, timeline)
    assert isinstance(found, CourseBack)
    return found


def damage(run: Run, reference: str) -> Path:
    found = run.find(reference, aside=True)
    assert found.path is not None
    (found.path / FILES[0]).write_bytes(b"damaged")
    return found.path


def generations(run: Run) -> list[int]:
    return [checkpoint.generation for checkpoint in run.checkpoints]


# -- courses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reference", "timeline"), [("gen:4", None), (None, 1)])
def test_what_is_shown_is_what_is_done(run: Run, reference: str | None, timeline: int | None) -> None:
    shown = course(run, reference, timeline)
    assert [c.generation for c in shown.what.back] == [4, 3]
    assert [c.generation for c in shown.what.aside] == [5, 6]
    assert shown.resumes_now is not None and shown.resumes_then is not None
    assert (shown.resumes_now.generation, shown.resumes_then.generation, shown.changes_course) == (6, 4, True)
    assert generations(run) == [1, 2, 5, 6], "nothing has moved yet"
    assert restore(run, shown) == run.path / "checkpoint-8"
    assert generations(run) == [1, 2, 3, 4]
    assert shown.to_json()["would_resume_from"] == 4


def test_a_damaged_one_stays_where_it_is(run: Run) -> None:
    where = damage(run, "gen:4")
    with pytest.raises(RestoreRefused, match="is damaged, and stays where it is") as caught:
        plan_restore(run, "gen:4")
    assert f"keepstep reseal {run.path} gen:4" in caught.value.hint
    assert where.is_dir() and generations(run) == [1, 2, 5, 6]


def test_a_damaged_one_on_the_way_there_stays_aside(run: Run) -> None:
    where = damage(run, "gen:3")
    shown = course(run, "gen:4")
    assert [one.checkpoint.generation for one in shown.left] == [3]
    restore(run, shown)
    assert (generations(run), where.is_dir()) == ([1, 2, 4], True)
    assert run.events.damaged() == {3}


def test_from_quarantine_once_a_person_has_sealed_it(run: Run) -> None:
    damage(run, "gen:2")
    with run.writing():
        run.quarantine(run.verify(run.find("gen:2")))
    with pytest.raises(RestoreRefused, match="damaged"):
        plan_restore(run, "gen:2")
    reseal(run, plan_reseal(run, "gen:2"))
    shown = course(run, "gen:2")
    assert (shown.what.aside, shown.changes_course) == ((), False)
    restore(run, shown)
    assert generations(run) == [1, 2, 5, 6]
    assert run.events.damaged() == set()


def test_what_would_leave_nothing_to_resume_from_is_refused(run: Run) -> None:
    checkpointer = make_checkpointer(run.path)
    checkpointer.begin("auto")
    checkpointer.save(Facts(8, kind=Kind.WEIGHTS, metrics={}), writer(8))
    checkpointer.close()
    with run.writing():
        run.rewind(run.find("gen:6"))
        for generation in ("gen:1", "gen:2", "gen:5"):
            run.remove(run.find(generation), "for the test")
        run.rewind(run.find("gen:6"))
    other = make_checkpointer(run.path)
    other.begin("gen:3")
    save(other, 9, 0.3)
    other.close()
    with run.writing():
        run.remove(run.find("gen:6", aside=True), "for the test")
    with pytest.raises(RestoreRefused, match="there would be nothing to resume from") as caught:
        plan_restore(run, "gen:7")
    assert "keepstep export" in caught.value.hint


def test_what_is_there_already_is_said(run: Run) -> None:
    with pytest.raises(RestoreRefused, match=r"is in .* already"):
        plan_restore(run, "latest")
    with pytest.raises(CheckpointNotFound, match="nothing of generation 99"):
        plan_restore(run, "gen:99")
    with pytest.raises(CheckpointNotFound, match="nothing set aside of timeline 9") as caught:
        plan_restore(run, None, 9)
    assert "--timeline 1" in caught.value.hint


def test_what_changed_after_it_was_shown_is_not_done(run: Run) -> None:
    shown = course(run, "gen:4")
    damage(run, "gen:4")
    with pytest.raises(RestoreChanged):
        restore(run, shown)
    shown = course(run, "gen:3")
    checkpointer = make_checkpointer(run.path)
    checkpointer.begin("auto")
    save(checkpointer, 9, 0.01)
    with pytest.raises(RunLocked):
        restore(run, shown)
    checkpointer.close()
    with pytest.raises(RestoreChanged):
        restore(run, shown)
    assert generations(run) == [1, 2, 5, 6, 7]


# -- the trash -----------------------------------------------------------------------------------------------


def trash(run: Run, reference: str) -> Path:
    """As a kill leaves it between taking a checkpoint away and deleting its manifest."""
    found = run.find(reference, aside=True)
    assert found.path is not None
    where = run.path / layout.TRASH / "0123"
    where.parent.mkdir(exist_ok=True)
    return found.path.rename(where)


def test_what_the_trash_still_has_whole_comes_back(run: Run) -> None:
    trash(run, "gen:5")
    assert "in the trash, until the next start" in [part.what for part in lying_aside(run).parts]
    shown = course(run, "gen:5")
    assert (shown.from_trash, shown.to_json()["came_from"]) == (True, "trash")
    restore(run, shown)
    assert generations(run) == [1, 2, 5, 6]
    assert run.verify(run.find("gen:5")).ok


def test_a_rest_in_the_trash_is_said_to_be_one(run: Run) -> None:
    where = trash(run, "gen:5")
    (where / "keepstep.json").unlink()
    assert lying_aside(run).rests == (where,)
    with pytest.raises(CheckpointNotFound, match="a rest without a manifest") as caught:
        plan_restore(run, "gen:5")
    assert str(where) in caught.value.hint


# -- previous runs -------------------------------------------------------------------------------------------


@pytest.fixture
def later(run: Run) -> Run:
    """The run that took the directory of the other one."""
    checkpointer = make_checkpointer(run.path, fresh="new-run")
    checkpointer.begin(None)
    save(checkpointer, 3, 1.0)
    checkpointer.close()
    return Run.open(run.path)


def test_a_previous_run_comes_back_whole(run: Run, later: Run) -> None:
    shown = plan_restore(later, f"previous:{run.id[:6]}")
    assert isinstance(shown, RunBack)
    assert ([c.step for c in shown.back], [c.step for c in shown.leaves]) == ([2, 4, 6, 7], [3])
    assert shown.resumes_then is not None and shown.resumes_then.generation == 6
    assert restore(later, shown) == run.path
    back = Run.open(run.path)
    assert (back.id, steps(back), [c.generation for c in back.aside]) == (run.id, [2, 4, 6, 7], [3, 4])
    assert [part.reference for part in lying_aside(back).parts] == ["--timeline 1", f"previous:{later.id}"]


def test_what_of_it_is_damaged_goes_to_its_own_quarantine(run: Run, later: Run) -> None:
    damage(later, f"previous:{run.id}/7")
    shown = plan_restore(later, f"previous:{run.id}")
    assert isinstance(shown, RunBack)
    assert [one.checkpoint.step for one in shown.damaged] == [7]
    restore(later, shown)
    back = Run.open(run.path)
    assert (steps(back), back.resume_point().checkpoint.step) == ([2, 4, 6], 6)
    assert [c.generation for c in back.aside] == [3, 4, 6]


def test_one_of_which_nothing_holds_stays_where_it_is(run: Run, later: Run) -> None:
    for step in (2, 4, 6, 7):
        damage(later, f"previous:{run.id}/{step}")
    with pytest.raises(RestoreRefused, match="no checkpoint of the previous run"):
        plan_restore(later, f"previous:{run.id}")


def test_one_checkpoint_of_it_is_no_run(run: Run, later: Run) -> None:
    with pytest.raises(RestoreRefused, match="a run comes back whole") as caught:
        plan_restore(later, f"previous:{run.id}/4")
    assert "train(resume_from_checkpoint=" in caught.value.hint
    path = later.find(f"previous:{run.id}/4", aside=True).path
    assert path is not None
    with pytest.raises(RestoreRefused, match="a run comes back whole"):
        plan_restore(later, str(path))


def test_what_is_being_read_is_not_moved(run: Run, later: Run) -> None:
    found = later.find(f"previous:{run.id}/4", aside=True)
    with later.reading([found], "being exported"), pytest.raises(RestoreRefused, match="being exported"):
        plan_restore(later, f"previous:{run.id}")


def test_a_part_of_the_run_itself_is_said(run: Run) -> None:
    home = run.path / layout.PREVIOUS / run.id
    home.mkdir(parents=True)
    shutil.move(run.path / "checkpoint-2", home / "checkpoint-2")
    with pytest.raises(RestoreRefused, match="a part of the run that is here"):
        plan_restore(run, f"previous:{run.id}")
