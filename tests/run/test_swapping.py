"""A previous run takes its directory back: what goes with it, and what any stop on the way leaves."""

from __future__ import annotations

import errno
from contextlib import suppress
from pathlib import Path

import pytest

from keepstep import layout
from keepstep.errors import KeepstepError
from keepstep.run import Run, finish_pending
from keepstep.testing.faults import Fault, Injector
from tests.small_run import assert_sound, litter, make_checkpointer, make_run, save, steps


def two_runs(path: Path) -> tuple[str, str]:
    """A run of 2, 4, 6 (6 is set aside by a rewind, 4 is tagged), and in its place one of 1, 3; their ids."""
    old = make_run(path, 2, 4, 6)
    old.pin_board.tag(2, "good")
    with old.writing():
        old.rewind(old.find(4))
    checkpointer = make_checkpointer(path, fresh="new-run")
    checkpointer.begin(None)
    save(checkpointer, 1, 0.9)
    save(checkpointer, 3, 0.8)
    checkpointer.close()
    new = Run.open(path)
    new.pin_board.pin(1)
    return old.id, new.id


def swap(path: Path, old: str) -> None:
    run = Run.open(path)
    with run.writing(), Run.open(path / layout.PREVIOUS / old).writing() as previous:
        run.change_places(previous)


def test_they_change_places_with_all_that_is_theirs(tmp_path: Path) -> None:
    path = tmp_path / "run"
    old, new = two_runs(path)
    swap(path, old)
    run = Run.open(path)
    assert (run.id, steps(run), [c.step for c in run.aside], run.pins.tags) == (old, [2, 4], [6], {"good": 2})
    (left,) = run.previous_runs.runs
    there = Run.open(path / left.home)
    assert (left.name, there.id, steps(there), there.pins.pinned) == (new, new, [1, 3], {1})
    *_, event = run.events.read()
    assert (event["event"], event["came_from"], event["run_id"], event["left"]) == ("restored", "previous", old, new)
    assert [event["run_id"] for event in there.events.read() if event["event"] == "run"] == [new]
    assert litter(path) == []
    swap(path, new)
    assert (Run.open(path).id, steps(Run.open(path))) == (new, [1, 3])


def test_a_training_goes_on_in_it(tmp_path: Path) -> None:
    path = tmp_path / "run"
    old, _ = two_runs(path)
    swap(path, old)
    checkpointer = make_checkpointer(path)
    point = checkpointer.begin("auto")
    assert point is not None and point.checkpoint.step == 4
    saved = save(checkpointer, 8, 0.01)
    checkpointer.close()
    assert (saved.run_id, saved.generation, saved.parent) == (old, 4, 2)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.quick(1)
def test_a_failure_anywhere_is_completed_at_the_next_start(tmp_path: Path, moment: str) -> None:
    for at in range(1, 200):
        path = tmp_path / str(at)
        old, new = two_runs(path)
        injector = Injector(Fault(at, errno.EIO, moment=moment))  # type: ignore[arg-type]
        with injector.injected(), suppress(OSError):
            swap(path, old)
        intended = (path / layout.SWAP).exists()
        assert Run.open(path).id in (old, new), "it is always somebody's"
        assert finish_pending(path) == intended
        run = Run.open(path)
        with run.writing():
            pass
        assert run.id == old or not intended
        (left,) = run.previous_runs.runs
        there = Run.open(path / left.home)
        assert {run.id, there.id} == {old, new}
        runs = {one.id: one for one in (run, there)}
        assert (steps(runs[old]), [c.step for c in runs[old].aside], steps(runs[new])) == ([2, 4], [6], [1, 3])
        assert (runs[old].pins.tags, runs[new].pins.pinned) == ({"good": 2}, {1})
        assert litter(path) == []
        assert_sound(run)
        if len(injector.changes) < at:
            assert at > 30
            return
    raise AssertionError("it never came to its end")


def killed(path: Path) -> str:
    """A swap that stopped when the run that was there had left, and the other one had not come."""
    dry = path.parent / "dry"
    two_runs(dry)
    with Injector().injected() as injector:
        swap(dry, Run.open(dry).previous_runs.runs[0].run_id)
    flips = [n for n, change in enumerate(injector.changes, 1) if change == ("replace", layout.RUN)]
    old, _ = two_runs(path)
    with Injector(Fault(flips[-1] + 1, sticky=True)).injected(), pytest.raises(OSError, match="Input/output"):
        swap(path, old)
    return old


def test_whoever_writes_first_completes_it_and_looks_anew(tmp_path: Path) -> None:
    path = tmp_path / "run"
    old = killed(path)
    run = Run.open(path)
    assert (run.id, steps(run)) == (old, [])
    with pytest.raises(KeepstepError, match="a restore that was killed is completed"), run.writing():
        pass
    assert not run.lock.held
    assert steps(Run.open(path)) == [2, 4]


def test_a_training_completes_it_before_it_looks(tmp_path: Path) -> None:
    path = tmp_path / "run"
    killed(path)
    checkpointer = make_checkpointer(path)
    point = checkpointer.begin("auto")
    checkpointer.close()
    assert point is not None and point.checkpoint.step == 4


def test_what_came_meanwhile_goes_with_the_run_that_left(tmp_path: Path) -> None:
    """Somebody pins, or checks, while half of it has moved."""
    path = tmp_path / "run"
    killed(path)
    Run.open(path).pin_board.pin(99)
    Run.open(path).events.append("pinned", step=9, generation=99)
    finish_pending(path)
    run = Run.open(path)
    assert (run.pins.held, steps(run)) == ({2}, [2, 4])
    assert run.events.last_generation() == 3
    assert len(list((path / layout.PREVIOUS).rglob("late-*/pins.json"))) == 1


def test_an_intent_that_can_not_be_read_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 2)
    (run.path / layout.SWAP).write_bytes(b"{}")
    with pytest.raises(KeepstepError, match="damaged") as caught, run.writing():
        pass
    assert "Delete it" in caught.value.hint
