"""A return: which course comes back and which goes aside, and what any stop on the way leaves."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

import pytest

from keepstep import layout
from keepstep.errors import KeepstepError
from keepstep.model import Checkpoint, State
from keepstep.run import Run, returning
from keepstep.run.lineage import Lineage
from keepstep.testing.faults import Fault, Injector
from tests.checkpoints import make_checkpoint
from tests.small_run import FILES, assert_sound, litter, make_checkpointer, make_run, save, steps


def two_courses(path: Path) -> Run:
    """2, 4, then 6, 8 on timeline 1 (generations 3, 4), which lie aside, and 6, 7 on timeline 2 (5, 6)."""
    make_run(path, 2, 4, 6, 8)
    checkpointer = make_checkpointer(path)
    checkpointer.begin(4)
    save(checkpointer, 6, 0.1)
    save(checkpointer, 7, 0.05)
    checkpointer.close()
    return Run.open(path)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return two_courses(tmp_path / "run")


def bring_back(run: Run, reference: str, *, alone: bool = False) -> None:
    with run.writing():
        run.bring_back(run.way_back(run.find(reference, aside=True), alone=alone))


def generations(run: Run) -> list[int]:
    return [checkpoint.generation for checkpoint in run.checkpoints]


def aside(run: Run) -> list[int]:
    return [checkpoint.generation for checkpoint in run.aside]


# -- courses -------------------------------------------------------------------------------------------------


def test_the_course_of_a_checkpoint_is_what_it_was_trained_through(run: Run) -> None:
    lineage = Lineage((*run.checkpoints, *run.aside), ())
    courses = {c.generation: set(lineage.course(c)) for c in (*run.checkpoints, *run.aside)}
    assert courses == {
        1: {1}, 2: {1, 2}, 3: {1, 2, 3}, 4: {1, 2, 3, 4}, 5: {1, 2, 5}, 6: {1, 2, 5, 6},
    }  # fmt: skip


def test_what_was_removed_is_in_the_log(run: Run) -> None:
    left = [c for c in (*run.checkpoints, *run.aside) if c.generation not in (2, 5)]
    newest = left[1]
    assert newest.generation == 6
    assert Lineage(left, run.events.read()).course(newest) == {1, 2, 5, 6}
    assert Lineage(left, ()).course(newest) == {5, 6}, "nobody knows what came before"


def test_a_log_without_parents_knows_timelines(run: Run) -> None:
    events = [{k: v for k, v in event.items() if k != "parent"} for event in run.events.read()]
    left = [c for c in (*run.checkpoints, *run.aside) if c.generation not in (2, 5)]
    assert Lineage(left, events).course(left[1]) == {1, 2, 5, 6}


def test_a_commit_whose_process_died_before_it_was_logged_is_in_the_log_at_the_next_start(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 2, 4, 6)
    log = run.path / layout.EVENTS
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(line for line in lines if '"generation":3' not in line))
    with (run := Run.open(run.path)).writing():
        run.remove(run.find("6"), "policy")
    (commit,) = [e for e in run.events.read() if e["event"] == "committed" and e["generation"] == 3]
    assert commit["parent"] == 2
    assert sum(e["event"] == "committed" for e in run.events.read()) == 3


def test_manifests_that_name_each_other_end_somewhere() -> None:
    one, other = make_checkpoint(3, parent=4), make_checkpoint(4, parent=3)
    assert Lineage((one, other), ()).course(other) == {3, 4}


# -- what moves ----------------------------------------------------------------------------------------------


def test_a_course_comes_back_and_the_other_goes_aside(run: Run) -> None:
    bring_back(run, "gen:4")
    assert (generations(run), aside(run)) == ([1, 2, 3, 4], [5, 6])
    assert run.resume_point().checkpoint.generation == 4
    assert [c.path.parent.name for c in run.aside if c.path] == ["2", "2"]
    (event,) = [event for event in run.events.read() if event["event"] == "restored"]
    assert (event["generation"], event["generations"], event["generations_aside"]) == (4, [3, 4], [5, 6])
    assert (event["left"], event["now"], event["came_from"]) == (2, 3, "set aside")
    assert_sound(run)


def test_and_back_again(run: Run) -> None:
    before = {c.generation: c.name for c in run.checkpoints}
    bring_back(run, "gen:4")
    bring_back(run, "gen:6")
    assert {c.generation: c.name for c in run.checkpoints} == before
    assert (aside(run), run.next_generation(), run.repository.current_timeline()) == ([3, 4], 7, 4)


def test_a_course_up_to_an_older_one(run: Run) -> None:
    bring_back(run, "gen:3")
    assert (generations(run), aside(run)) == ([1, 2, 3], [4, 5, 6])


def test_a_training_goes_on_from_what_came_back(run: Run) -> None:
    bring_back(run, "gen:4")
    checkpointer = make_checkpointer(run.path)
    point = checkpointer.begin("auto")
    assert point is not None and point.checkpoint.generation == 4
    saved = save(checkpointer, 10, 0.01)
    checkpointer.close()
    assert (saved.generation, saved.parent, saved.timeline) == (7, 4, 3)
    bring_back(run, "gen:6")
    assert (generations(run), aside(run)) == ([1, 2, 5, 6], [3, 4, 7])


def test_one_that_the_newest_was_trained_through_takes_its_place_again(run: Run) -> None:
    with run.writing():
        run.quarantine(run.verify(run.find("gen:2")))
    assert generations(run) == [1, 5, 6]
    bring_back(run, "gen:2")
    assert (generations(run), aside(run)) == ([1, 2, 5, 6], [3, 4])
    assert run.resume_point().checkpoint.generation == 6
    assert list((run.path / layout.QUARANTINE).iterdir()) == []


def test_quarantined_siblings_stay_where_they_are(run: Run) -> None:
    with run.writing():
        run.rewind(run.find("gen:2"))
        bad = run.find("gen:3", aside=True)
        run.repository.quarantine(bad)
    bring_back(run, "gen:4")
    assert generations(run) == [1, 2, 4]
    assert [c.generation for c in run.aside if c.state is State.QUARANTINED] == [3]


def test_what_somebody_put_in_its_place_is_moved_away(run: Run) -> None:
    (run.path / "checkpoint-8").mkdir()
    (run.path / "checkpoint-8" / "mine").write_bytes(b"mine")
    bring_back(run, "gen:4")
    assert generations(run) == [1, 2, 3, 4]
    assert [p.read_bytes() for p in run.path.rglob("mine")] == [b"mine"]


def test_pins_and_late_metrics_go_along(run: Run) -> None:
    run.pin_board.tag(4, "old")
    run.record_metrics(4, {"eval_loss": 0.0})
    bring_back(run, "old")
    assert run.best is not None
    assert (run.find("old").generation, run.best.generation) == (4, 4)


# -- a training that is given one ----------------------------------------------------------------------------


@pytest.mark.parametrize("reference", ["gen:4", "path", "tag"])
def test_a_training_brings_back_what_it_goes_on_from(
    run: Run, reference: str, caplog: pytest.LogCaptureFixture
) -> None:
    run.pin_board.tag(4, "tag")
    resume: object = run.find("gen:4", aside=True).path if reference == "path" else reference
    checkpointer = make_checkpointer(run.path)
    with caplog.at_level("WARNING", logger="keepstep"):
        point = checkpointer.begin(resume)  # type: ignore[arg-type]
    assert point is not None and point.path == run.path / "checkpoint-8"
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("checkpoint-8 comes back from ") and "2 checkpoints of the course that was there" in line
    saved = save(checkpointer, 10, 0.01)
    checkpointer.close()
    assert (saved.parent, generations(run), aside(run)) == (4, [1, 2, 4, 7], [3, 5, 6])


def test_a_training_that_is_refused_moves_nothing(run: Run) -> None:
    checkpointer = make_checkpointer(run.path)
    checkpointer.begin("gen:4", settle=False)
    checkpointer.close()
    assert (generations(run), aside(run)) == ([1, 2, 5, 6], [3, 4])


def test_a_previous_runs_checkpoint_is_gone_on_from_where_it_lies(run: Run) -> None:
    checkpointer = make_checkpointer(run.path, fresh="new-run")
    checkpointer.begin(None)
    checkpointer.close()
    checkpointer.begin(f"previous:{run.id}/4")
    saved = save(checkpointer, 6, 0.1)
    checkpointer.close()
    assert saved.parent is None
    assert Run.open(run.path).find(f"previous:{run.id}/4", aside=True).step == 4


# -- stops ---------------------------------------------------------------------------------------------------

BEFORE, AFTER = [1, 2, 5, 6], [1, 2, 3, 4]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_failure_anywhere_is_completed_at_the_next_start(tmp_path: Path, moment: str) -> None:
    for at in range(1, 200):
        path = tmp_path / str(at)
        two_courses(path)
        injector = Injector(Fault(at, errno.EIO, moment=moment))  # type: ignore[arg-type]
        with injector.injected(), suppress(OSError):
            bring_back(Run.open(path), "gen:4")
        intended = (path / layout.RETURN).exists()
        run = Run.open(path)
        assert any(run.verify(c).resumable for c in run.checkpoints), "at no moment is there none"
        with run.writing():
            pass
        assert generations(run) in (BEFORE, AFTER)
        assert generations(run) == AFTER or not intended
        assert sorted([*generations(run), *aside(run)]) == [1, 2, 3, 4, 5, 6]
        assert litter(path) == []
        assert_sound(run)
        if len(injector.changes) < at:
            assert at > 20
            return
    raise AssertionError("it never came to its end")


def test_an_intent_that_can_not_be_read_is_an_error_with_a_way_out(run: Run) -> None:
    (run.path / layout.RETURN).write_bytes(b"x")
    with pytest.raises(KeepstepError, match="damaged") as caught, run.writing():
        pass
    assert "Delete it" in caught.value.hint
    assert not run.lock.held


def test_a_damaged_one_on_its_way_is_told_by_its_manifest(run: Run) -> None:
    """What lies where the intent says, and is another one by now, is left alone."""
    what = run.way_back(run.find("gen:4", aside=True))
    returning.begin(run.store, run.repository, what)
    where = what.checkpoint.path
    assert where is not None
    (where / "keepstep.json").unlink()
    with run.writing():
        pass
    assert generations(run) == [1, 2, 3]
    assert (where / FILES[0]).exists()


def names_of(checkpoints: tuple[Checkpoint, ...]) -> list[str]:
    return [checkpoint.name for checkpoint in checkpoints]


def test_nothing_is_planned_twice(run: Run) -> None:
    what = run.way_back(run.find("gen:4", aside=True))
    assert names_of(what.back) == ["checkpoint-8", "checkpoint-6"]
    assert names_of(what.aside) == ["checkpoint-6", "checkpoint-7"]
    assert steps(run) == [2, 4, 6, 7]
