"""What a run does while it is killed or its disk fails: each action with the state before it and after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from keepstep import layout
from keepstep.checkpointer import Facts
from keepstep.errors import CheckpointNotFound, RunNotFound
from keepstep.run import Limits, Run
from tests.run.test_returning import two_courses
from tests.run.test_swapping import two_runs
from tests.small_run import FILES, assert_sound, litter, make_checkpointer, make_run, save, steps, writer

Write = Callable[[Path], None]


@dataclass(frozen=True)
class Action:
    """`before` and `after`: the steps that may be resumed from (None: a fresh start) when it was stopped or done."""

    name: str
    prepare: Callable[[Path], None]
    act: Callable[[Path, Write], None]
    before: frozenset[int | None]
    after: int | None


def _session(
    *save_steps: int, resume: object = "auto", keep: str = "all", fresh: str = "refuse"
) -> Callable[[Path, Write], None]:
    def act(path: Path, write: Write) -> None:
        checkpointer = make_checkpointer(path, keep, fresh)  # type: ignore[arg-type]
        checkpointer.begin(resume)  # type: ignore[arg-type]
        try:
            for step in save_steps:
                checkpointer.save(Facts(step, metrics={"eval_loss": 1 / step}), write)
        finally:
            checkpointer.close()

    return act


def _run(*saved: int) -> Callable[[Path], None]:
    def prepare(path: Path) -> None:
        make_run(path, *saved)

    return prepare


def _damaged(path: Path) -> None:
    make_run(path, 2, 4, 6)
    (path / "checkpoint-6" / FILES[0]).write_bytes(b"damaged")


def _littered(path: Path) -> None:
    """What kills leave: a half save, a half removal, a replacement between its renames, a rewind not begun."""
    make_run(path, 2, 4, 6)
    for room in (f"{layout.STAGING}/a/checkpoint-8", f"{layout.TRASH}/b/checkpoint-1"):
        (path / room / "state").mkdir(parents=True)
        (path / room / FILES[1]).write_bytes(b"half")
    (path / layout.REPLACED).mkdir()
    (path / "checkpoint-2").rename(path / layout.REPLACED / "checkpoint-2")
    (path / layout.META / ".run.json.abc.tmp").write_bytes(b"half")
    (path / layout.REWIND).write_bytes(b"2 1\n")


def _on_an_older_file_system(path: Path, write: Write) -> None:
    """Where two names can't be swapped in one step."""
    with patch("keepstep.stores.renaming._renameat2", lambda: None):
        _session(2)(path, write)


def _trained_twice(path: Path) -> None:
    """A run, and a previous one that its process had set aside."""
    for saved in (2, 4), (2,):
        checkpointer = make_checkpointer(path)
        checkpointer.begin(None)
        for step in saved:
            save(checkpointer, step, 1 / step)
        checkpointer.close()


def _within_a_budget(path: Path, write: Write) -> None:
    """The previous run is given up for the next save, its records with the last of it."""
    checkpointer = make_checkpointer(path)
    checkpointer.headroom.limits = Limits(budget=900)
    checkpointer.begin("auto")
    try:
        checkpointer.save(Facts(4, metrics={"eval_loss": 0.25}), write)
    finally:
        checkpointer.close()


def _pin(path: Path, _write: Write) -> None:
    board = Run.open(path).pin_board
    board.pin(1)
    board.tag(2, "good")


def _restore(path: Path, write: Write) -> None:
    """The course of step 8 comes back, and that of 7 goes aside."""
    with (run := Run.open(path)).writing():
        run.bring_back(run.way_back(run.find("gen:4", aside=True)))


def _restore_a_previous_run(path: Path, _write: Write) -> None:
    run = Run.open(path)
    with run.writing(), run.before(run.previous_runs.runs[0]).writing() as previous:
        run.change_places(previous)


def _two_runs(path: Path) -> None:
    two_runs(path)


def _two_courses(path: Path) -> None:
    two_courses(path)


ACTIONS = [
    Action("the first save", lambda path: None, _session(2), frozenset({None}), 2),
    Action("save", _run(2, 4), _session(6), frozenset({4}), 6),
    Action("the same step again", _run(2, 4), _session(4), frozenset({4}), 4),
    Action("the only step again", _run(2), _session(2), frozenset({2}), 2),
    Action("the only step again, no exchange", _run(2), _on_an_older_file_system, frozenset({2}), 2),
    Action("retention", _run(2, 4, 6), _session(8, keep="latest:1"), frozenset({6}), 8),
    Action("quarantine", _damaged, _session(), frozenset({4}), 4),
    Action("rewind", _run(2, 4, 6), _session(resume=2), frozenset({6, 2}), 2),
    Action("new run", _run(2, 4), _session(resume=None, fresh="new-run"), frozenset({4, 2, None}), None),
    Action("previous runs make room", _trained_twice, _within_a_budget, frozenset({2}), 4),
    Action("restore", _two_courses, _restore, frozenset({7}), 8),
    Action("restore a previous run", _two_runs, _restore_a_previous_run, frozenset({3}), 4),
    Action("pin", _run(2, 4), _pin, frozenset({4}), 4),
    Action("recovery", _littered, _session(), frozenset({4}), 4),
]


def check(path: Path, action: Action, *, completed: bool) -> None:
    """The oracle, as a new start meets it: resume, nothing half, no litter, nothing lost, and another save."""
    damaged = {6} if action.name == "quarantine" else set[int]()
    _visible_are_whole(path, damaged)
    found = resumes_from(path)
    allowed = {action.after} if completed else action.before | {action.after}
    assert found in allowed, f"resumes from {found}, not from one of {allowed}"
    run = Run.open(path)
    assert litter(path) == []
    assert_sound(run)
    _pins_are_whole(run, completed and action.name == "pin")
    checkpointer = make_checkpointer(path)
    checkpointer.begin("auto")
    save(checkpointer, 100)
    checkpointer.close()
    assert resumes_from(path) == 100
    assert litter(path) == []
    if action.name in ("rewind", "new run", "quarantine") or "restore" in action.name:
        kept = {file.parent.name for file in path.rglob("keepstep.json")}
        assert {"checkpoint-2", "checkpoint-4"} <= kept


def resumes_from(path: Path) -> int | None:
    """The step that a start with "auto" goes on from."""
    checkpointer = make_checkpointer(path)
    point = checkpointer.begin("auto")
    checkpointer.close()
    return point.checkpoint.step if point else None


def _visible_are_whole(path: Path, damaged: set[int]) -> None:
    try:
        run = Run.open(path)
    except RunNotFound:
        assert not list(path.glob("checkpoint-*"))
        return
    assert run.foreign == ()
    assert all(run.verify(c).ok for c in run.checkpoints if c.step not in damaged)
    try:
        run.resume_point()
    except CheckpointNotFound:
        assert steps(run) == []


def _pins_are_whole(run: Run, completed: bool) -> None:
    pins = run.pins
    assert pins.pinned in (frozenset(), {1})
    assert pins.tags in ({}, {"good": 2})
    if completed:
        assert (pins.pinned, pins.tags) == ({1}, {"good": 2})


def plain_write(directory: Path) -> None:
    """The writer of every action."""
    writer(int(directory.name.rpartition("-")[2]))(directory)
