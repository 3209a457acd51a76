"""A fresh start in a used directory: what it sets aside unasked, what it refuses, and what becomes of it later."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from keepstep import layout, units
from keepstep.checkpointer import Checkpointer
from keepstep.checkpointer.janitor import Janitor
from keepstep.errors import RunInUse, RunNotFound
from keepstep.model import State
from keepstep.operations.removing.carrying_out import apply_plan
from keepstep.retention import Policy, without_aside
from keepstep.run import Run, has_ended
from tests.small_run import LOSS, litter, made_elsewhere, make_checkpointer, make_run, save, steps

ONE = 400
"""Bytes of one checkpoint."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The lines that were logged since the last call."""
    caplog.set_level("INFO", logger="keepstep")

    def lines() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    return lines


def again(path: Path, *saved: int, resume: object = None, budget: str | None = None) -> Run:
    """One more training of this process, a fresh start unless it resumes."""
    checkpointer = Checkpointer(path, Policy.from_spec("all", LOSS), budget=budget)
    checkpointer.begin(resume)  # type: ignore[arg-type]
    for step in saved:
        save(checkpointer, step, 1 / step)
    checkpointer.close()
    return Run.open(path)


def lying(run: Run) -> list[tuple[str, int]]:
    """Previous runs and steps of what is left of them, in the order in which it would go."""
    return [(d.checkpoint.run_id, d.checkpoint.step) for d in run.plan().aside if d.stays]


def removed(run: Run) -> list[dict[str, object]]:
    return [event for event in run.events.read() if event["event"] == "removed"]


# -- what is set aside ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("resume", [None, False])
def test_a_run_of_this_process_is_set_aside_whole_in_one_line(
    path: Path, resume: object, said: Callable[[], list[str]]
) -> None:
    old = make_run(path, 2, 4)
    old.pin_board.pin(1)

    new = again(path, 2, resume=resume)

    home = path / layout.PREVIOUS / old.id
    assert (new.id != old.id, steps(new), new.pins.held) == (True, [2], frozenset())
    assert (steps(Run.open(home)), Run.open(home).pins.pinned) == ([2, 4], {1}), "it is still a run"
    (line,) = said()
    assert "2 checkpoints, 800 B; this process trained it" in line
    assert f'{home}; train(resume_from_checkpoint="{home / "checkpoint-4"}") goes on from it' in line
    assert f"keepstep prune {path} --previous" in line
    (event,) = [event for event in new.events.read() if event["event"] == "set_aside"]
    assert (event["run_id"], event["steps"], event["size_bytes"]) == (old.id, [2, 4], 2 * ONE)
    assert (path / event["path"]) == home


def test_what_the_line_says_works(path: Path) -> None:
    old = make_run(path, 2, 4)
    again(path, 2)
    checkpointer = make_checkpointer(path)
    point = checkpointer.begin(str(path / layout.PREVIOUS / old.id / "checkpoint-4"))
    assert point is not None and point.checkpoint.step == 4 and "verified" in point.reason
    save(checkpointer, 6)
    checkpointer.close()
    assert steps(Run.open(path)) == [6], "a course of one run: what was there is set aside too"
    assert sorted(steps(Run.open(path / run.home)) for run in Run.open(path).previous_runs.runs) == [[2], [2, 4]]


# -- going on from another run's ---------------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A checkpoint of a run in another directory."""
    make_run(tmp_path / "other", 8)
    return tmp_path / "other" / "checkpoint-8"


def test_going_on_from_another_run_sets_this_one_aside_in_one_line(
    path: Path, other: Path, said: Callable[[], list[str]]
) -> None:
    old = make_run(path, 2, 4)
    run = again(path, 10, resume=other)
    assert (run.id != old.id, steps(run), steps(Run.open(path / layout.PREVIOUS / old.id))) == (True, [10], [2, 4])
    (line,) = said()
    assert line.startswith(
        f"Going on from {other} in {path}: the run that was there (2 checkpoints, 800 B; this process"
    )
    (event,) = [event for event in run.events.read() if event["event"] == "set_aside"]
    assert (event["run_id"], event["steps"]) == (old.id, [2, 4])
    assert steps(again(path, 12, resume="auto")) == [10, 12], "the new one goes on"


def test_going_on_from_another_run_is_no_way_round_a_forgotten_resume(path: Path, other: Path) -> None:
    made_elsewhere(path, 2)
    with pytest.raises(RunInUse, match="would not resume from them"):
        again(path, resume=other)
    assert steps(Run.open(path)) == [2]
    with Run.open(path).writing():
        pass

    checkpointer = Checkpointer(path, "all", fresh="new-run")
    checkpointer.begin(other)
    checkpointer.close()
    assert steps(Run.open(path)) == []


def test_going_on_from_another_run_sets_aside_one_that_has_ended(path: Path, other: Path) -> None:
    made_elsewhere(path, 2, finished=True)
    assert steps(again(path, 10, resume=other)) == [10]


def test_a_resume_from_another_run_that_is_refused_moves_nothing(path: Path, other: Path) -> None:
    old = make_run(path, 2)
    checkpointer = Checkpointer(path, "latest:1")
    checkpointer.begin(other, settle=False)
    checkpointer.close()
    run = Run.open(path)
    assert (run.id, steps(run), run.policy) == (old.id, [2], old.policy)

    checkpointer.begin(other, settle=False)
    checkpointer.settle()
    checkpointer.close()
    assert steps(Run.open(path)) == []


def test_one_of_another_run_that_lies_among_them_stays_there(path: Path, other: Path) -> None:
    old = make_run(path, 2)
    shutil.copytree(other, path / other.name)
    run = again(path, 10, resume=path / other.name)
    assert run.id == old.id and (path / other.name).is_dir()


def test_a_download_of_the_runs_own_is_rewound_to(path: Path, tmp_path: Path) -> None:
    old = make_run(path, 2, 4)
    shutil.copytree(path / "checkpoint-2", tmp_path / "download" / "checkpoint-2")
    run = again(path, 6, resume=tmp_path / "download" / "checkpoint-2")
    assert (run.id, steps(run)) == (old.id, [2, 6])


def test_a_forked_child_has_trained_nothing(path: Path) -> None:
    make_run(path, 2)
    child = os.fork()
    if child == 0:
        try:
            again(path)
        except RunInUse:
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_run_that_was_moved_or_copied_is_not_known(path: Path, tmp_path: Path) -> None:
    make_run(path, 2)
    shutil.copytree(path, tmp_path / "copy")
    with pytest.raises(RunInUse):
        again(tmp_path / "copy")
    path.rename(tmp_path / "moved")
    with pytest.raises(RunInUse):
        again(tmp_path / "moved")


def test_a_directory_that_goes_by_another_name_is_the_same(path: Path, tmp_path: Path) -> None:
    make_run(path, 2)
    (tmp_path / "link").symlink_to(path)
    assert steps(again(tmp_path / "link")) == []


def test_a_resume_that_was_refused_has_trained_nothing(path: Path) -> None:
    made_elsewhere(path, 2)
    checkpointer = make_checkpointer(path)
    checkpointer.begin("auto", settle=False)
    checkpointer.close()
    with pytest.raises(RunInUse):
        again(path)
    again(path, resume="auto")
    assert steps(again(path)) == [], "now it has"


def test_a_run_that_has_ended_is_set_aside_in_any_process(path: Path, said: Callable[[], list[str]]) -> None:
    old = made_elsewhere(path, 2, finished=True)
    assert has_ended(old)
    assert steps(again(path)) == []
    (line,) = said()
    assert "(a checkpoint, 400 B; it had ended)" in line


def test_a_run_that_went_on_after_its_end_has_not_ended(path: Path) -> None:
    made_elsewhere(path, 2, finished=True)
    run = made_elsewhere(path, 4)
    assert not has_ended(run)
    with pytest.raises(RunInUse, match="2 checkpoints"):
        again(path)
    assert not has_ended(made_elsewhere(path.with_name("empty")))


def test_checkpoints_that_can_not_be_read_go_along(path: Path, said: Callable[[], list[str]]) -> None:
    run = make_run(path, 2)
    (path / "checkpoint-2" / "keepstep.json").write_bytes(b"{}")
    assert steps(again(path)) == []
    (line,) = said()
    assert "(a checkpoint, 0 B;" in line and "resume_from_checkpoint" not in line and "prune" not in line
    assert (path / layout.PREVIOUS / run.id / "checkpoint-2" / "keepstep.json").exists()
    assert Run.open(path).previous == (), "nothing in there is known to be ours"


def test_a_checkpointer_knows_its_run_after_it_was_set_aside(path: Path) -> None:
    """A sweep asks each for its best: never another's."""
    first, second = make_checkpointer(path), make_checkpointer(path)
    for checkpointer, step in ((first, 4), (second, 2)):
        checkpointer.begin(None)
        save(checkpointer, step, 1 / step)
        checkpointer.close()
    assert [steps(checkpointer.run) for checkpointer in (first, second)] == [[4], [2]]
    assert first.run.best is not None and first.run.verify(first.run.best).ok
    with second.run.writing() as run:
        run.remove(run.previous[0], "asked for")
    with pytest.raises(RunNotFound, match="nothing is left of it"):
        _ = first.run
    assert steps(make_checkpointer(path).run) == [2]


def test_auto_goes_on_as_ever(path: Path) -> None:
    make_run(path, 2)
    assert steps(again(path, 4, resume="auto")) == [2, 4]
    assert not (path / layout.PREVIOUS).exists()


def test_an_end_that_is_broken_off_gives_the_lock_back(path: Path) -> None:
    """Ctrl-C twice: the next cell can train."""

    class BrokenOff(Janitor):
        def finish(self) -> None:
            raise KeyboardInterrupt

    checkpointer = make_checkpointer(path)
    checkpointer.begin(None)
    save(checkpointer, 2)
    checkpointer._tenure.janitor = BrokenOff(checkpointer.run.store)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(KeyboardInterrupt):
        checkpointer.close()
    assert steps(again(path)) == []


# -- what becomes of it --------------------------------------------------------------------------------------


@pytest.fixture
def three(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Two previous runs of two checkpoints each, and the run that is there now, of one; it is the last."""
    monkeypatch.setitem(units.SIZES, "kB", 1000)
    first = make_run(path, 2, 4)
    second = again(path, 2, 4)
    return [first, second, again(path, 2)]


def test_without_a_shortage_nothing_removes_it(three: list[Run], path: Path) -> None:
    first, second, run = three
    expected = [(first.id, 2), (first.id, 4), (second.id, 2), (second.id, 4)]
    assert lying(run) == expected
    assert {c.state for c in run.previous} == {State.PREVIOUS}
    run = again(path, 4, 6, resume="auto")
    assert (lying(run), removed(run)) == (expected, [])
    assert run.plan().taken_bytes == 7 * ONE


def test_a_budget_counts_it_and_gives_it_up_first_the_oldest_first(three: list[Run], path: Path) -> None:
    first, second, run = three
    run = again(path, 4, resume="auto", budget="1.8kB")
    assert (steps(run), lying(run)) == ([2, 4], [(second.id, 2), (second.id, 4)])
    assert [(event["previous"], event["step"]) for event in removed(run)] == [(first.id, 2), (first.id, 4)]
    assert all(
        "over the budget of 1.8 kB" in str(e["reason"])
        and f"the oldest of what a fresh start set aside, of the previous run {first.id}" in str(e["reason"])
        for e in removed(run)
    )
    assert all("generation" not in event for event in removed(run)), "they are another run's"
    assert not (path / layout.PREVIOUS / first.id).exists(), "its records went with its last checkpoint"
    assert [event["previous"] for event in run.events.read() if event["event"] == "forgotten"] == [first.id]
    assert litter(path) == []

    run = again(path, 6, resume="auto", budget="0.9kB")
    assert lying(run) == []
    assert steps(run) == [4, 6], "only then what is its own"
    assert run.next_generation() == 4, "generations of a previous run are not the run's"


def test_what_was_pinned_in_a_previous_run_stays(three: list[Run], path: Path) -> None:
    first, _, _ = three
    kept = Run.open(path / layout.PREVIOUS / first.id)
    kept.pin_board.tag(1, "paper")
    run = again(path, 4, resume="auto", budget="1.3kB")
    assert lying(run) == [(first.id, 2)]
    assert [d.reasons[0] for d in run.plan().aside] == ["pinned"]
    kept.pin_board.unpin(1)
    assert lying(again(path, resume="auto", budget="1.3kB")) == [(first.id, 2)], "a start alone removes nothing"
    assert lying(again(path, 6, resume="auto", budget="0.9kB")) == []


def test_pins_are_looked_up_again_before_each_removal(three: list[Run], path: Path) -> None:
    first, second, run = three
    run.pin_board.pin(1)  # of the run that is there now: another one's generation
    plan = without_aside(run.plan(), [State.PREVIOUS], "asked for")
    Run.open(path / layout.PREVIOUS / second.id).pin_board.pin(2)
    with run.writing():
        done = apply_plan(run, plan)
    assert [(c.run_id, c.step) for c in done.spared] == lying(run) == [(second.id, 4)]
    assert [(c.run_id, c.step) for c in done.removed_aside] == [(first.id, 2), (first.id, 4), (second.id, 2)]


@pytest.mark.parametrize("way", ["damaged pins", "read", "worked in"])
def test_what_somebody_needs_in_a_previous_run_stays(three: list[Run], path: Path, way: str) -> None:
    first, _, _ = three
    kept = Run.open(path / layout.PREVIOUS / first.id)
    if way == "damaged pins":
        (kept.path / layout.PINS).write_bytes(b"{")
        run = again(path, 4, resume="auto", budget="1.7kB")
    elif way == "read":
        with kept.readers.reading([1, 2], "being exported"):
            run = again(path, 4, resume="auto", budget="1.7kB")
    else:
        with kept.writing():
            run = again(path, 4, resume="auto", budget="1.7kB")
    assert steps(kept) == [2, 4]
    assert {event["previous"] for event in removed(run)} == {three[1].id}


def test_what_is_gone_on_from_is_held_to_the_end_of_the_session(three: list[Run], path: Path) -> None:
    first, _, third = three
    checkpointer = Checkpointer(path, Policy.from_spec("latest:1", LOSS), budget="1.3kB")
    checkpointer.begin(path / layout.PREVIOUS / first.id / "checkpoint-2")
    save(checkpointer, 10)
    assert lying(checkpointer.run) == [(first.id, 2), (third.id, 2)], "the second is older than what was set aside last"
    assert steps(checkpointer.run) == [10]
    checkpointer.close()
    assert lying(Run.open(path)) == [(first.id, 2), (third.id, 2)], "there is room for it"


def test_what_keepstep_did_not_commit_stays(three: list[Run], path: Path) -> None:
    first, second, _ = three
    previous = path / layout.PREVIOUS
    (previous / "stock-1" / "checkpoint-9").mkdir(parents=True)
    shutil.copytree(previous / first.id / "checkpoint-2", previous / "foreign-1" / "checkpoint-2")
    shutil.copytree(previous / first.id / "checkpoint-2", previous / second.id / "checkpoint-8")
    (previous / first.id / "checkpoint-7").mkdir()
    (previous / first.id / "checkpoint-7" / "model.bin").write_bytes(b"stock")
    for name, link in ((first.id, f"{first.id}-link"), (second.id, f"{second.id}/{layout.TIMELINES}")):
        shutil.copytree(previous / name / "checkpoint-2", path.with_name(name) / "checkpoint-2")
        (previous / link).symlink_to(path.with_name(name))

    run = again(path, 4, resume="auto", budget="0.9kB")

    assert lying(run) == []
    left = {str(file.relative_to(previous)) for file in previous.rglob("model.bin")}
    assert all((path.with_name(run.id) / "checkpoint-2").exists() for run in (first, second)), "behind a link"
    assert left == {f"{first.id}/checkpoint-7/model.bin", *(
        f"{name}/model.bin" for name in ("foreign-1/checkpoint-2", f"{second.id}/checkpoint-8")
    )}  # fmt: skip


def test_what_had_been_aside_in_it_counts_too(path: Path) -> None:
    old = make_run(path, 2, 4, 6)
    with old.writing():
        old.rewind(old.find(4))
        old.quarantine(old.verify(old.find(2)))
    run = again(path)
    assert [step for _, step in lying(run)] == [2, 4, 6]
    assert run.aside == ()


def test_what_a_kill_left_half_set_aside_counts_and_keeps_its_pins(path: Path) -> None:
    run = make_run(path, 2, 4)
    run.pin_board.pin(1)
    with run.writing():
        run.repository.move("checkpoint-2", f"{layout.PREVIOUS}/{run.id}")
    assert [(c.step, c.state) for c in run.previous] == [(2, State.PREVIOUS)]
    assert [d.reasons[0] for d in run.plan().aside] == ["pinned"]
    assert steps(again(path)) == []
    assert [step for _, step in lying(Run.open(path))] == [2, 4]
