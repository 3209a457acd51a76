"""The facade: how it begins, what it refuses, who holds the lock, and what a failing writer leaves."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from keepstep import layout, units
from keepstep.checkpointer import Checkpointer, Facts
from keepstep.errors import CheckpointNotFound, KeepstepError, RunInUse, RunLocked, RunNotFound, StorageError
from keepstep.retention import Policy
from keepstep.run import Limits, Run
from keepstep.testing.faults import Fault, Injector
from tests.small_run import (
    FILES,
    LOSS,
    assert_sound,
    litter,
    made_elsewhere,
    make_checkpointer,
    make_run,
    manifest_of,
    save,
    steps,
    writer,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


def begin(path: Path, resume: object, **arguments: str) -> int | None:
    """The step that a start resumes from, None for a fresh start; the run is closed again."""
    checkpointer = make_checkpointer(path, **arguments)  # type: ignore[arg-type]
    point = checkpointer.begin(resume)  # type: ignore[arg-type]
    checkpointer.close()
    return point.checkpoint.step if point else None


# -- beginning ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resume", [None, False, "auto"])
def test_an_unused_directory_begins_fresh(path: Path, resume: object) -> None:
    assert begin(path, resume) is None
    assert begin(path, resume) is None
    assert Run.open(path).checkpoints == ()


@pytest.mark.parametrize("resume", [True, "latest", "best", 4, "checkpoint-4"])
def test_resuming_from_nothing_is_an_error(path: Path, resume: object) -> None:
    with pytest.raises(CheckpointNotFound):
        begin(path, resume)


@pytest.mark.parametrize("resume", [None, False])
def test_a_fresh_start_over_checkpoints_is_refused(path: Path, resume: object) -> None:
    run = made_elsewhere(path, 2, 4)
    with pytest.raises(RunInUse, match="2 checkpoints") as caught:
        begin(path, resume)
    assert all(way in caught.value.hint for way in ('"auto"', "checkpoint-4", "new-run"))
    assert steps(run) == [2, 4]
    assert begin(path, "auto") == 4


def test_a_new_run_sets_the_old_one_aside_whole(path: Path) -> None:
    old = make_run(path, 2, 4)
    old.pin_board.pin(1)
    old.record_metrics(1, {"eval_loss": 0.1})
    assert begin(path, None, fresh="new-run") is None
    new = Run.open(path)
    assert (new.id != old.id, new.checkpoints, new.pins.held, new.next_generation()) == (True, (), frozenset(), 1)
    kept = Run.open(path / layout.PREVIOUS / old.id)
    assert steps(kept) == [2, 4]
    assert kept.pins.pinned == {1}
    assert kept.find(2).metrics["eval_loss"] == 0.1
    assert_sound(kept)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_new_run_that_failed_anywhere_loses_nothing_and_can_be_made_later(tmp_path: Path, moment: str) -> None:
    at = 0
    while True:
        at += 1
        path = tmp_path / str(at)
        old = make_run(path, 2, 4)
        old.pin_board.pin(1)
        old.record_metrics(1, {"eval_loss": 0.0})
        injector = Injector(Fault(at, moment=moment))  # type: ignore[arg-type]
        with injector.injected(), suppress(OSError, KeepstepError):
            begin(path, None, fresh="new-run")
        if len(injector.changes) < at:
            break
        for _ in range(2):
            checkpointer = make_checkpointer(path, fresh="new-run")
            checkpointer.begin(None)
            save(checkpointer, 2)
            assert [(c.step, c.generation, c.metrics) for c in checkpointer.run.checkpoints] == [(2, 1, {})]
            assert checkpointer.run.pins.held == frozenset()
            assert checkpointer.run.id != old.id
            checkpointer.close()
        kept = [p.parent.name for p in (path / layout.PREVIOUS).rglob("keepstep.json")]
        assert sorted(kept).count("checkpoint-4") == 1
        assert litter(path) == []


@pytest.mark.parametrize("resume", ["auto", True, "latest"])
def test_resuming_finds_the_newest_that_holds_and_quarantines_the_rest(path: Path, resume: object) -> None:
    run = make_run(path, 2, 4, 6)
    (path / "checkpoint-6" / FILES[0]).write_bytes(b"damaged")
    assert begin(path, resume) == 4
    assert steps(run) == [2, 4]
    assert [(c.step, c.state.value) for c in run.aside] == [(6, "quarantined")]
    assert [e["step"] for e in run.events.read() if e["event"] == "quarantined"] == [6]


def test_auto_never_begins_anew_beside_checkpoints_it_can_not_read(path: Path) -> None:
    """One flipped bit in the only manifest must not end in a fresh start without a word."""
    run = made_elsewhere(path, 2)
    manifest_of(run.find(2)).write_bytes(b"{}")
    with pytest.raises(CheckpointNotFound) as caught:
        begin(path, "auto")
    assert "checkpoint-2 is not one" in caught.value.hint
    with pytest.raises(RunInUse, match="can't be used"):
        begin(path, None)
    assert (path / "checkpoint-2" / FILES[0]).exists()


def test_an_explicit_reference_rewinds(path: Path) -> None:
    run = make_run(path, 2, 4, 6)
    assert begin(path, 4) == 4
    assert steps(run) == [2, 4]
    assert [c.step for c in run.aside] == [6]
    assert begin(path, "step:2") == 2
    assert steps(run) == [2]
    assert [(c.step, c.path.parent.name) for c in run.aside if c.path] == [(4, "2"), (6, "1")]


def test_a_step_of_an_abandoned_timeline_can_be_saved_again(path: Path) -> None:
    run = make_run(path, 2, 4, 6)
    checkpointer = make_checkpointer(path)
    checkpointer.begin(2)
    checkpoint = save(checkpointer, 4)
    checkpointer.close()
    assert (checkpoint.generation, checkpoint.timeline, checkpoint.parent) == (4, 2, 1)
    assert steps(run) == [2, 4]
    assert begin(path, "auto") == 4


def test_a_tag_that_looks_like_another_checkpoint_does_not_mislead_a_resume(path: Path) -> None:
    make_run(path, 2, 4)
    (path / layout.PINS).write_bytes(b'{"tags": {"checkpoint-4": 1}}')
    assert begin(path, "latest") == 4


def test_stock_checkpoints_are_refused_named_or_set_aside(path: Path) -> None:
    stock = path / "checkpoint-5"
    stock.mkdir(parents=True)
    (stock / "model.bin").write_bytes(b"stock")
    for resume in (None, "auto", True):
        with pytest.raises(RunInUse, match="did not commit"):
            begin(path, resume)
    assert begin(path, None, fresh="new-run") is None
    assert len(list((path / layout.PREVIOUS).rglob("model.bin"))) == 1
    shutil.rmtree(path)
    stock.mkdir(parents=True)
    (stock / "model.bin").write_bytes(b"stock")
    assert begin(path, stock) == 5
    assert (stock / "model.bin").read_bytes() == b"stock"


# -- the lock ----------------------------------------------------------------------------------------------


def hold(path: Path, pipe: Connection) -> None:
    checkpointer = make_checkpointer(path)
    checkpointer.begin("auto")
    pipe.send("holding")
    pipe.recv()


def fork_and_hold(path: Path, pipe: Connection) -> None:
    """Take the lock, fork a child that lives on, and wait to be killed."""
    checkpointer = make_checkpointer(path)
    checkpointer.begin("auto")
    if os.fork() == 0:
        pipe.send(os.getpid())
        signal.pause()
    signal.pause()


@pytest.fixture
def context() -> multiprocessing.context.ForkServerContext:
    return multiprocessing.get_context("forkserver")


def test_a_second_process_is_refused_and_a_killed_one_forgotten(
    path: Path, context: multiprocessing.context.ForkServerContext
) -> None:
    run = make_run(path, 2)
    here, there = context.Pipe()
    process = context.Process(target=hold, args=(path, there))
    process.start()
    assert here.recv() == "holding"
    with pytest.raises(RunLocked, match=f"process {process.pid} on ") as caught:
        begin(path, "auto")
    assert "output_dir" in caught.value.hint
    assert steps(run) == [2]
    process.kill()
    process.join()
    assert begin(path, "auto") == 2


def test_a_forked_child_does_not_keep_the_lock_of_its_killed_parent(
    path: Path, context: multiprocessing.context.ForkServerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepstep.run.lock.GRACE_SECONDS", 0.0)
    make_run(path, 2)
    here, there = context.Pipe()
    process = context.Process(target=fork_and_hold, args=(path, there))
    process.start()
    child = here.recv()
    try:
        process.kill()
        process.join()
        os.kill(child, 0)
        assert begin(path, "auto") == 2
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_that_ends_does_not_release_its_parents_lock(path: Path) -> None:
    checkpointer = make_checkpointer(path)
    checkpointer.begin("auto")
    child = os.fork()
    if child == 0:
        try:
            checkpointer.run.lock.release()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    with pytest.raises(RunLocked):
        begin(path, "auto")
    checkpointer.close()


def test_beginning_twice_in_one_process_is_refused_too(path: Path) -> None:
    checkpointer = make_checkpointer(path)
    checkpointer.begin("auto")
    with pytest.raises(RunLocked):
        begin(path, "auto")
    checkpointer.close()
    assert begin(path, "auto") is None


def test_saving_before_beginning_or_after_closing_is_refused(path: Path) -> None:
    checkpointer = make_checkpointer(path)
    with pytest.raises(RunNotFound):
        save(checkpointer, 2)
    checkpointer.begin("auto")
    checkpointer.close()
    with pytest.raises(KeepstepError, match="lock"):
        save(checkpointer, 2)
    assert steps(Run.open(path)) == []
    assert litter(path) == []


# -- saving ------------------------------------------------------------------------------------------------


def test_the_same_step_saved_twice_is_the_second_one(path: Path) -> None:
    checkpointer = make_checkpointer(path)
    checkpointer.begin("auto")
    save(checkpointer, 2, 0.5)
    again = save(checkpointer, 2, 0.25)
    checkpointer.close()
    run = Run.open(path)
    assert run.checkpoints == (again,)
    assert (again.generation, again.parent, again.metrics) == (2, 1, {"eval_loss": 0.25})
    assert [e["replaces"] for e in run.events.read() if e["event"] == "committed"] == [[], [1]]
    assert_sound(run)


class Failing:
    """A writer that raises in its first calls, after half of its work."""

    def __init__(self, *errors: BaseException) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self, directory: Path) -> None:
        self.calls += 1
        (directory / FILES[0]).write_bytes(b"half")
        if self.errors:
            raise self.errors.pop(0)
        (directory / FILES[0]).unlink()
        writer(4)(directory)


def test_a_disk_error_is_tried_once_more(path: Path) -> None:
    make_run(path, 2)
    checkpointer = make_checkpointer(path)
    checkpointer.begin("auto")
    failing = Failing(OSError(errno.EIO, "broken"))
    assert checkpointer.save(Facts(4), failing).step == 4
    assert failing.calls == 2
    checkpointer.close()
    run = Run.open(path)
    assert_sound(run)
    assert litter(path) == []
    assert [e["step"] for e in run.events.read() if e["event"] == "failed"] == [4]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_the_second_disk_error_is_raised_with_its_number(path: Path, number: int) -> None:
    make_run(path, 2)
    checkpointer = make_checkpointer(path)
    checkpointer.begin("auto")
    failing = Failing(*(OSError(number, os.strerror(number)) for _ in range(3)))
    with pytest.raises(StorageError, match=os.strerror(number)) as caught:
        checkpointer.save(Facts(4), failing)
    assert (caught.value.errno, failing.calls) == (number, 2)
    assert save(checkpointer, 6).step == 6
    checkpointer.close()
    assert steps(Run.open(path)) == [2, 6]
    assert litter(path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("bug"), SystemExit(1)], ids=repr)
def test_any_other_error_inside_the_writer_leaves_nothing_and_is_raised_at_once(
    path: Path, error: BaseException
) -> None:
    make_run(path, 2)
    checkpointer = make_checkpointer(path)
    checkpointer.begin("auto")
    failing = Failing(error)
    with pytest.raises(type(error)):
        checkpointer.save(Facts(4), failing)
    assert failing.calls == 1
    assert litter(path) == []
    checkpointer.close()
    assert steps(Run.open(path)) == [2]


def test_a_full_disk_keeps_nobody_from_resuming(path: Path) -> None:
    make_run(path, 2)
    staged = path / layout.STAGING / "killed" / "checkpoint-4"
    staged.mkdir(parents=True)
    (staged / FILES[0]).write_bytes(b"what filled the disk")
    with Injector().injected() as injector:
        real = injector.run

        def full(operation: str, key: str, change: object, half: object = None) -> object:
            if operation in ("write", "replace", "append", "make_directory"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), key)
            return real(operation, key, change, half)  # type: ignore[arg-type]

        injector.run = full  # type: ignore[method-assign,assignment]
        assert begin(path, "auto") == 2
    assert litter(path) == []


def test_what_was_resumed_from_is_kept_until_the_end(path: Path) -> None:
    make_run(path, 2)
    checkpointer = make_checkpointer(path, "latest:1")
    checkpointer.begin("auto")
    for step in (4, 6, 8):
        save(checkpointer, step)
        assert steps(checkpointer.run) == [2, step]
    checkpointer.close()
    assert steps(Run.open(path)) == [8]


def test_late_metrics_decide_at_once(path: Path) -> None:
    checkpointer = make_checkpointer(path, "best:1,latest:1")
    checkpointer.begin("auto")
    save(checkpointer, 2, 0.5)
    save(checkpointer, 4, 0.6)
    assert not checkpointer.record(3, {"eval_loss": 0.1})
    assert checkpointer.record(4, {"eval_loss": 0.1})
    assert steps(checkpointer.run) == [4]
    save(checkpointer, 6)
    assert steps(checkpointer.run) == [4, 6]
    checkpointer.close()


def test_nan_is_never_best_and_never_lost_as_the_newest(path: Path) -> None:
    checkpointer = make_checkpointer(path, "best:1")
    checkpointer.begin("auto")
    save(checkpointer, 2, 0.5)
    save(checkpointer, 4, float("nan"))
    assert steps(checkpointer.run) == [2, 4]
    assert checkpointer.run.find("best").step == 2
    checkpointer.close()
    assert begin(path, "auto") == 4


def test_the_policy_is_in_force_on_disk_from_the_start(path: Path) -> None:
    make_run(path, 2)
    begin(path, "auto", keep="best:3,latest:2")
    assert Run.open(path).file.keep == "best:3,latest:2"


def test_what_somebody_cleared_by_hand_is_given_up_without_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(units.SIZES, "kB", 1000)
    make_run(path, 1, 2, 3)  # 400 bytes each
    checkpointer = Checkpointer(path, Policy.from_spec("all", LOSS), budget="1.7kB")
    checkpointer.begin("step:1")
    save(checkpointer, 12)
    shutil.rmtree(path / layout.TIMELINES)
    save(checkpointer, 13)
    checkpointer.close()
    assert steps(Run.open(path)) == [1, 12, 13]


def test_a_budget_counts_what_lies_aside_and_gives_it_up_first(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(units.SIZES, "kB", 1000)
    make_run(path, 1, 2, 3)  # 400 bytes each
    policy = Policy.from_spec("all", LOSS)
    checkpointer = Checkpointer(path, policy, budget="1.7kB", min_free="1kB", on_disk_full="continue")
    checkpointer.begin("step:1")
    try:
        assert Run.open(path).limits == Limits(1700, 1000, "continue")
        assert [c.step for c in checkpointer.run.aside] == [2, 3]
        save(checkpointer, 12)
        assert [c.step for c in checkpointer.run.aside] == [2, 3], "four of 400 bytes fit"
        save(checkpointer, 13)
        assert ([c.step for c in checkpointer.run.aside], steps(checkpointer.run)) == ([3], [1, 12, 13])
        save(checkpointer, 14)
        assert ([c.step for c in checkpointer.run.aside], steps(checkpointer.run)) == ([], [1, 12, 13, 14])
        save(checkpointer, 15)
        assert steps(checkpointer.run) == [1, 13, 14, 15], "then the good ones: 1 was resumed from"
    finally:
        checkpointer.close()
    reasons = [event["reason"] for event in checkpointer.run.events.read() if event["event"] == "removed"]
    assert reasons[:2] == ["over the budget of 1.7 kB with one more of 400 B: the oldest that a rewind set aside"] * 2

    with training_without_limits(path):
        assert Run.open(path).limits == Limits()


@contextmanager
def training_without_limits(path: Path) -> Iterator[None]:
    checkpointer = make_checkpointer(path)
    checkpointer.begin("auto")
    yield
    checkpointer.close()


def test_as_a_context_it_closes_itself(path: Path) -> None:
    with make_checkpointer(path) as checkpointer:
        assert checkpointer.begin("auto") is None
        save(checkpointer, 2)
    assert [event["event"] for event in Run.open(path).events.read()][-1] == "finished"
    with suppress(ZeroDivisionError), make_checkpointer(path) as checkpointer:
        checkpointer.begin("auto")
        raise ZeroDivisionError
    assert [event["event"] for event in Run.open(path).events.read()].count("finished") == 1
    with Run.open(path).writing():
        pass
