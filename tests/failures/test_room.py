"""A disk that fills: on a real small file system, the training ends with the best and the newest on it."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from keepstep import units
from keepstep.checkpointer import headroom
from keepstep.errors import DiskFull, SettingsError, StorageError
from keepstep.model import Checkpoint, Kind
from keepstep.run import Run
from tests.failures.build import At, Scores, events, interrupted_at, managed, names, same, steps, stock, train, weights

pytestmark = pytest.mark.training

Mount = Callable[..., Path]
EVERY_STEP = {"num_train_epochs": 4, "save_steps": 1, "eval_steps": 1, "logging_steps": 6}
"""24 checkpoints."""
SCORES: Scores = {step: 0.9 if step == 5 else step / 100 for step in range(1, 25)}
RANKED = {"scores": SCORES, "metric_for_best_model": "accuracy"}


@contextmanager
def mounted(directory: Path, options: str) -> Iterator[Path]:
    directory.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a small file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    made: list[Any] = []

    def mount(options: str) -> Path:
        made.append(mounted(tmp_path / f"disk{len(made)}", options))
        return made[-1].__enter__()

    yield mount
    for context in made:
        context.__exit__(None, None, None)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> int:
    """Bytes that a checkpoint takes on a file system of pages."""
    out = tmp_path_factory.mktemp("one")
    train(out, max_steps=2, **RANKED)
    files = [path for path in (out / "checkpoint-2").iterdir() if path.is_file()]
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in files)


@pytest.fixture(scope="module")
def enough(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What a training on a disk with room for all ends with, which saves nothing."""
    trainer = stock(tmp_path_factory.mktemp("enough"), **{**EVERY_STEP, **RANKED, "save_strategy": "no"})
    trainer.train()
    return weights(trainer.model)


def small(one: int, checkpoints: float) -> str:
    return f"size={int(one * checkpoints) // 4096 * 4}k"


def _free(out: Path) -> int:
    room = os.statvfs(out)
    return room.f_bavail * room.f_frsize


def holds(out: Path) -> bool:
    run = Run.open(out)
    return all(run.verify(checkpoint).ok for checkpoint in run.checkpoints)


@pytest.mark.parametrize("keep", [None, "best:2,latest:2", "best:1:full,every:2"])
@pytest.mark.quick("None", "every:2")
def test_a_run_that_needs_five_times_the_disk_ends_well(
    disk: Mount, one: int, enough: dict[str, torch.Tensor], keep: str | None, said: Callable[[], str]
) -> None:
    """disk full | the run dies | keeps the best and the newest, and loses nothing."""
    out = disk(small(one, 24 / 5)) / "run"

    trainer, checkpointer = train(out, keep=keep, **EVERY_STEP, **RANKED)

    assert same(weights(trainer.model), enough)
    assert checkpointer.run.best is not None and checkpointer.run.best.step == 5
    assert steps(out)[-1] == 24
    assert holds(out)
    assert checkpointer.refused == []
    text = said()
    assert ("NO ROOM TO KEEP EVERYTHING" in text) == (keep is None)
    if keep != "best:2,latest:2":
        assert "DOES NOT FIT" in text
        assert any(" needed: " in event["reason"] for event in events(out, "removed"))


@pytest.mark.long
def test_the_same_disk_under_stock(disk: Mount, one: int) -> None:
    """disk full | the run dies."""
    with pytest.raises(Exception, match=r"os error 28|No space|PytorchStreamWriter|unexpected pos|write failed"):
        stock(disk(small(one, 24 / 5)) / "run", **EVERY_STEP, **RANKED).train()


def test_inodes_run_out(disk: Mount, said: Callable[[], str]) -> None:
    """inodes run out | the run dies | as for bytes."""
    out = disk("size=64m,nr_inodes=64") / "run"
    _, checkpointer = train(out, **EVERY_STEP, **RANKED)
    assert "inodes free" in said()
    assert checkpointer.refused == []
    assert steps(out)[-1] == 24 and 5 in steps(out)
    assert holds(out)


def test_a_save_without_room_is_refused_before_it_writes(
    disk: Mount, one: int, uninterrupted: dict[str, torch.Tensor], said: Callable[[], str]
) -> None:
    """disk full: the training goes on, and says so at its end."""
    out = disk(small(one, 1.7)) / "run"
    trainer, checkpointer = managed(out, **RANKED)

    with pytest.raises(DiskFull, match=r"5 saves were refused for lack of room \(step 4, 6, 8, 10, 12\)") as error:
        trainer.train()

    assert "the newest checkpoint is step 2" in error.value.message
    assert "on_disk_full='continue'" in error.value.hint
    assert same(weights(trainer.model), uninterrupted)
    assert names(out) == ["checkpoint-2"]
    assert holds(out)
    text = said()
    assert "STEP 4 IS NOT SAVED. checkpoint step 4 can't be saved: " in text
    assert "keeps" in text and "free" in text and "Free space on the disk" in text
    assert [event["step"] for event in events(out, "refused")] == [4, 6, 8, 10, 12]
    assert not list((out / ".keepstep" / "staging").iterdir())
    assert checkpointer.refused == [4, 6, 8, 10, 12]


def attached(out: Path, **options: Any) -> tuple[Any, Any]:
    import keepstep

    settings = {**RANKED, **options.pop("settings", {})}
    trainer = stock(out, **settings)
    checkpointer = keepstep.attach(trainer, **options)
    for callback in settings.get("callbacks", ()):
        if isinstance(callback, At):
            callback.checkpointer = checkpointer
    return trainer, checkpointer


def test_continue_ends_well(disk: Mount, one: int) -> None:
    out = disk(small(one, 1.7)) / "run"
    trainer, checkpointer = attached(out, on_disk_full="continue")
    trainer.train()
    assert checkpointer.refused == [4, 6, 8, 10, 12]


def test_stop_gives_up_nothing_and_stops(disk: Mount, one: int) -> None:
    out = disk(small(one, 3.5)) / "run"
    trainer, _ = attached(out, on_disk_full="stop")
    with pytest.raises(DiskFull, match="checkpoint step 8 can't be saved"):
        trainer.train()
    assert names(out) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert trainer.state.global_step == 8


def test_pause_waits_for_room_and_goes_on(
    disk: Mount, one: int, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(headroom, "FIRST_WAIT", 0.1)
    out = disk(small(one, 4)) / "run"
    others = out.parent / "others"

    def fill(**_: Any) -> None:
        while _free(out) < one * 2.6:  # what was removed is still being deleted
            time.sleep(0.01)
        others.write_bytes(b"x" * int(one * 2.5))

    class Other(logging.Handler):
        """Another process, which gives its space back during the second wait."""

        waits = 0

        def emit(self, record: logging.LogRecord) -> None:
            self.waits += "The training waits" in record.getMessage()
            if self.waits == 2 and others.exists():
                others.unlink()

    trainer, checkpointer = attached(
        out, keep="latest:1", on_disk_full="pause", settings={"callbacks": [At(5, fill, "on_step_end")]}
    )
    headroom.logger.addHandler(other := Other())
    try:
        trainer.train()
    finally:
        headroom.logger.removeHandler(other)

    assert not others.exists()
    text = said()
    waits = [line for line in text.splitlines() if "The training waits" in line]
    assert len(waits) == 2
    assert "in 0 s" in waits[0] and "checkpoint step 6 can't be saved" in waits[0]
    assert checkpointer.refused == []
    assert steps(out) == [12]


def test_others_that_fill_the_disk_cost_no_more_than_a_save(disk: Mount, one: int) -> None:
    """Nothing is given up for a save that would be refused all the same."""
    out = disk(small(one, 6)) / "run"
    others = out.parent / "others"

    def fill(**_: Any) -> None:
        others.write_bytes(b"x" * _free(out))

    left: list[list[str]] = []

    def leave(**_: Any) -> None:
        left.append(names(out))
        others.unlink()

    trainer, checkpointer = attached(
        out, keep="latest:2", on_disk_full="continue",
        settings={"callbacks": [At(5, fill, "on_step_end"), At(7, leave, "on_step_end")]},
    )  # fmt: skip
    trainer.train()
    assert steps(out) == [10, 12]
    assert holds(out)
    assert left == [["checkpoint-2", "checkpoint-4"]]
    assert checkpointer.refused == [6]


def test_a_budget_holds_with_the_one_in_flight(out: Path, one: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(units.SIZES, "kB", 1000)
    size = sum(path.stat().st_size for path in _one_checkpoint(out.parent / "one"))
    budget = int(size * 3.5)
    peaks: list[int] = []

    commit = Run.commit

    def commit_and_measure(run: Run, *args: Any) -> Checkpoint:
        checkpoint = commit(run, *args)
        peaks.append(sum(map(_bytes_in, out.glob("*-*"))))  # before the policy removes any: it is never more than now
        return checkpoint

    trainer, checkpointer = attached(out, budget=f"{budget / 1000}kB", engine="stock", settings=EVERY_STEP)
    monkeypatch.setattr(Run, "commit", commit_and_measure)
    trainer.train()

    assert len(peaks) == 24
    assert size * 3 < max(peaks) <= budget * 1.05  # a manifest is not counted, and the log in each one grows
    assert checkpointer.run.best is not None and checkpointer.run.best.step == 5
    assert steps(out)[-1] == 24
    assert any("over the budget of" in event["reason"] for event in events(out, "removed"))


def _bytes_in(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _one_checkpoint(out: Path) -> list[Path]:
    train(out, max_steps=2, **RANKED)
    return [path for path in (out / "checkpoint-2").iterdir() if path.name != "keepstep.json"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_quota_that_ends_in_the_middle_of_a_save(
    out: Path, number: int, said: Callable[[], str], uninterrupted: dict[str, torch.Tensor]
) -> None:
    """Staging goes, room is made, and one retry; the file system's own word is not enough."""
    failures = [OSError(number, os.strerror(number))]

    def fail_once() -> None:
        if failures:
            raise failures.pop()

    trainer, checkpointer = train(out, trainer_class=interrupted_at("before the random states", fail_once))

    assert "Writing it anew" in said()
    assert steps(out)[-1] == 12 and 6 in steps(out)
    # By the word of the file system there is room enough: only a quota needs more than a second try.
    assert ("weights-2" in names(out)) == (number == errno.EDQUOT)
    assert same(weights(trainer.model), uninterrupted)
    assert checkpointer.refused == []


@pytest.mark.parametrize("engine", ["fast", "stock"])
def test_a_full_disk_in_the_middle_of_every_save(out: Path, engine: str) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    trainer, checkpointer = managed(out, trainer_class=interrupted_at("after the weights", fail), engine=engine)
    with pytest.raises(
        DiskFull, match=r"1 save was refused for lack of room \(step 6\); the newest checkpoint is step 12"
    ):
        trainer.train()
    assert steps(out) == [2, 4, 8, 10, 12]
    assert checkpointer.refused == [6]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"budget": "200"}, "budget '200' has no unit: a bare number"),
        ({"budget": 200}, "budget 200 has no unit: a bare number"),
        ({"min_free": "much"}, "min_free 'much' is not a size"),
        ({"arena": "16"}, "arena '16' has no unit: a bare number"),
        ({"on_disk_full": "panic"}, "on_disk_full is 'panic'"),
    ],
)
def test_settings_that_make_no_sense(out: Path, options: dict[str, Any], part: str) -> None:
    with pytest.raises(SettingsError, match=part) as error:
        attached(out, **options)
    assert error.value.hint


def test_min_free_is_kept_free(disk: Mount, one: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(units.SIZES, "kB", 1000)
    out = disk(small(one, 8)) / "run"
    trainer, _ = attached(out, min_free=f"{one * 4 / 1000}kB", settings=EVERY_STEP)
    trainer.train()
    assert _free(out) >= one * 4
    assert steps(out)[-1] == 24
    assert [c.step for c in Run.open(out).checkpoints if c.kind is Kind.WEIGHTS] in ([5], [])


def test_storage_errors_know_whether_room_was_short() -> None:
    assert StorageError("", errno=errno.EDQUOT).is_full
    assert not StorageError("", errno=errno.EIO).is_full
