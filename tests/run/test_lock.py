"""The lock of a run, held for a moment by whoever looks at it: a start waits for that, and no longer."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from filelock import FileLock

from keepstep import layout
from keepstep.errors import RunLocked
from keepstep.run import Run
from tests.small_run import make_checkpointer, make_run


def test_a_start_waits_for_whoever_holds_the_lock_for_a_moment(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 1)
    with run.lock.momentarily() as alone:
        assert alone and run.lock.held
        threading.Timer(0.2, run.lock.release).start()
        checkpointer = make_checkpointer(run.path)
        checkpointer.begin("auto")
    with Run.open(run.path).lock.momentarily() as second:
        assert not second
    assert checkpointer.run.lock.held
    checkpointer.close()


def test_a_moment_says_nothing_of_its_holder_and_ends(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 1)
    with run.lock.momentarily():
        assert run.lock.owner() is None
    with run.writing():
        assert run.lock.owner() is not None


def test_one_that_holds_it_longer_without_a_note_is_another_process(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 1)
    with FileLock(run.path / layout.LOCK, is_singleton=False), pytest.raises(RunLocked, match="another process"):
        run.lock.acquire()
