"""Killed, interrupted, out of disk or out of luck in the middle: what is left, and that it goes on from there."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

import keepstep
from keepstep.run import Exactness, Run
from tests.failures.build import (
    SAVE_POINTS,
    At,
    CrashAfter,
    Crashed,
    crash,
    files,
    in_child,
    interrupted_at,
    managed,
    names,
    receipt,
    rows,
    same,
    steps,
    stock,
    train,
    unlocked,
    weights,
)

pytestmark = pytest.mark.training


def kill_myself() -> None:
    """SIGKILL, as the kernel or a scheduler sends it."""
    os.kill(os.getpid(), signal.SIGKILL)


def killed_inside_the_save(out: Path, point: str, *, attached: bool) -> None:
    """A training in a process of its own, ended by SIGKILL inside the save of step 6."""

    def work() -> str:
        settings = {"trainer_class": interrupted_at(point, kill_myself)}
        trainer = managed(out, **settings)[0] if attached else stock(out, **settings)
        trainer.train()
        return "not killed"

    code, text = in_child(work)
    assert code == -signal.SIGKILL, text


@pytest.mark.parametrize("resume", [True, "auto"])
@pytest.mark.parametrize("point", SAVE_POINTS)
@pytest.mark.quick("auto")
def test_sigkill_inside_a_save(
    out: Path, point: str, resume: bool | str, uninterrupted: dict[str, torch.Tensor]
) -> None:
    """SIGKILL inside a save, 12 points | `resume=True` **crashes** | commit or nothing; fall back."""
    killed_inside_the_save(out, point, attached=True)
    assert steps(out) == [2, 4]

    trainer, checkpointer = train(out, resume)

    assert receipt(checkpointer).step == 4
    assert same(weights(trainer.model), uninterrupted)
    assert not any((out / ".keepstep" / "staging").iterdir())


@pytest.mark.parametrize("point", ["after the weights", "before the random states"])
@pytest.mark.long
def test_sigkill_inside_a_save_under_stock(out: Path, point: str) -> None:
    """SIGKILL inside a save, 12 points | death before trainer_state.json: `resume=True` **crashes**."""
    killed_inside_the_save(out, point, attached=False)

    with pytest.raises(FileNotFoundError, match=r"trainer_state\.json"):
        stock(out).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("moment", ["before the rename", "after the rename"])
@pytest.mark.quick(1)
def test_sigkill_at_the_commit(
    out: Path, moment: str, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, torch.Tensor]
) -> None:
    """SIGKILL inside a save: the rename is the moment; before it there is nothing, after it there is all."""
    from keepstep.stores import LocalStore

    rename = LocalStore.rename

    def rename_and_die(self: LocalStore, source: str, target: str) -> None:
        if target == "checkpoint-6" and moment == "before the rename":
            kill_myself()
        rename(self, source, target)
        if target == "checkpoint-6":
            kill_myself()

    def work() -> str:
        monkeypatch.setattr(LocalStore, "rename", rename_and_die)
        train(out)
        return "not killed"

    code, text = in_child(work)
    assert code == -signal.SIGKILL, text
    assert steps(out) == ([2, 4] if moment == "before the rename" else [2, 4, 6])

    assert same(weights(train(out, "auto")[0].model), uninterrupted)


@contextmanager
def recorded_syncs(monkeypatch: pytest.MonkeyPatch, name: Path) -> Iterator[list[tuple[int, bool]]]:
    """Inode of every fsync in its order, and whether `name` was to be seen by then."""
    found: list[tuple[int, bool]] = []
    fsync = os.fsync

    def recording(descriptor: int) -> None:
        fsync(descriptor)
        found.append((os.fstat(descriptor).st_ino, name.exists()))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", recording)
        yield found


def test_power_loss(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """power loss | 0 fsync | fsync files and directories."""
    with recorded_syncs(monkeypatch, out / "checkpoint-2") as found:
        crash(out, after=2, save_steps=2, lora={"r": 2})

    before = {inode for inode, visible in found if not visible}
    after = [inode for inode, visible in found if visible]
    checkpoint = out / "checkpoint-2"
    everything = [checkpoint, *checkpoint.rglob("*")]
    assert len(everything) > 10
    assert [p.name for p in everything if p.stat().st_ino not in before] == [], "synced before it was to be seen"
    assert after[0] == out.stat().st_ino, "the rename is synced at once"


@pytest.mark.long
def test_power_loss_under_stock(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """power loss | 0 fsync."""
    with recorded_syncs(monkeypatch, out / "checkpoint-2") as found:
        crash(out, after=2, attached=False)

    assert found == []


def interrupt() -> None:
    """What Ctrl-C does."""
    raise KeyboardInterrupt


@pytest.mark.parametrize("point", SAVE_POINTS)
@pytest.mark.quick(2)
def test_ctrl_c_inside_a_save(out: Path, point: str, uninterrupted: dict[str, torch.Tensor]) -> None:
    """Ctrl-C inside a save: nothing half is left, the lock is free, and the run can be resumed."""
    with pytest.raises(KeyboardInterrupt):
        train(out, trainer_class=interrupted_at(point, interrupt))

    assert steps(out) == [2, 4]
    assert not any((out / ".keepstep" / "staging").iterdir())
    assert unlocked(out)
    assert same(weights(train(out, True)[0].model), uninterrupted)


@pytest.mark.parametrize("error", [KeyboardInterrupt, Crashed, SystemExit, MemoryError])
@pytest.mark.quick("Keyboard", "Crashed")
def test_exception_in_a_step(out: Path, error: type[BaseException], uninterrupted: dict[str, torch.Tensor]) -> None:
    """An exception in the training loop passes, frees the lock, and puts the user's arguments back."""
    trainer, _ = managed(out, save_total_limit=3, callbacks=[CrashAfter(7, error)])
    with pytest.raises(error):
        trainer.train()

    assert unlocked(out)
    assert trainer.args.save_total_limit == 3
    assert same(weights(train(out, "auto", save_total_limit=3)[0].model), uninterrupted)


def test_exception_in_an_evaluation(out: Path) -> None:
    """An exception in the user's compute_metrics passes and frees the lock."""
    trainer, _ = managed(out)

    def compute_metrics(_: Any) -> dict[str, float]:
        raise ZeroDivisionError

    trainer.compute_metrics = compute_metrics
    with pytest.raises(ZeroDivisionError):
        trainer.train()

    assert unlocked(out)


def test_the_same_trainer_again(out: Path, uninterrupted: dict[str, torch.Tensor]) -> None:
    """After an exception the same trainer object can be resumed, as in a notebook."""
    trainer, checkpointer = managed(out, callbacks=[CrashAfter(5, KeyboardInterrupt)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.pop_callback(CrashAfter)

    trainer.train(resume_from_checkpoint=True)

    assert receipt(checkpointer).step == 4
    assert same(weights(trainer.model), uninterrupted)


def test_checkpoint_removed_by_somebody(out: Path) -> None:
    """A checkpoint that somebody deletes in mid-training is no reason to stop."""
    import shutil

    def delete(**_: object) -> None:
        shutil.rmtree(out / "checkpoint-4")

    train(out, save_total_limit=2, eval_strategy="no", callbacks=[At(5, delete)])

    assert names(out) == ["checkpoint-10", "checkpoint-12"]
    assert files(out / "checkpoint-12")


# -- the last step of a training that an exception ends ----------------------------------------------------------


class BadBatch:
    """Rows, of which one raises when it is read, once."""

    def __init__(self, at: int) -> None:
        self._rows, self._left = rows(), at

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        self._left -= 1
        if self._left == 0:
            raise Crashed("a bad row")
        torch.rand(1)  # as augmentation does: what reading draws must not be missing
        return self._rows[index]


def rescued(out: Path, **settings: Any) -> Trainer:
    """A training that saves when an exception ends it; it does."""
    trainer = stock(out, **settings)
    keepstep.attach(trainer, save_on_exception=True)
    with pytest.raises(Crashed):
        trainer.train()
    return trainer


@pytest.mark.parametrize(("at", "last"), [(34, 7), (30, 6)], ids=["in mid-epoch", "at an epoch's start"])
@pytest.mark.quick(1)
def test_a_bad_batch_costs_no_step_and_the_resume_is_exact(out: Path, at: int, last: int) -> None:
    """A loader reads one batch ahead."""
    whole, _ = train(out.with_name("whole"), data=BadBatch(0), save_steps=5)
    rescued(out, data=BadBatch(at), save_steps=5)
    assert steps(out) == [5, last]
    trainer, checkpointer = train(out, "auto", data=BadBatch(0), save_steps=5)
    assert receipt(checkpointer).level is Exactness.EXACT
    assert same(weights(trainer.model), weights(whole.model))


def test_what_is_half_done_is_not_saved_and_it_is_said(out: Path, said: Callable[[], str]) -> None:
    def crash_in_the_middle(**_: Any) -> None:
        raise Crashed

    rescued(out, callbacks=[At(5, crash_in_the_middle, "on_pre_optimizer_step")])
    assert steps(out) == [2, 4]
    assert "step 5 is not saved: the exception came in the middle of the step after it" in said()


def test_a_save_that_fails_as_well_is_shown_beside_what_ended_the_training(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, *_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "the disk is gone")

    monkeypatch.setattr(Run, "commit", full)
    with pytest.raises(Crashed, match="after step 2") as raised:
        train(out, callbacks=[CrashAfter(2)])
    assert "what was being saved failed as well" in "".join(raised.value.__notes__)
