"""A disk that fails in the middle of a save: an error that says so, and nothing lost."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer

from keepstep.checkpointer import Checkpointer
from keepstep.errors import StorageError
from keepstep.run import Run
from tests.failures.build import interrupted_at, managed, same, steps, stock, train, unlocked, weights

pytestmark = pytest.mark.training


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes: a write that fails as on a full disk (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class SmallDisk(Trainer):
    """Its saves of step 6 run where files can't grow beyond `size` bytes."""

    size = 0

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        with self._limit("model"):
            super().save_model(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        with self._limit("optimizer"):
            super()._save_optimizer_and_scheduler(output_dir)

    part = ""

    @contextmanager
    def _limit(self, part: str) -> Iterator[None]:
        if part == self.part and self.state.global_step == 6:
            with file_size_limit(self.size):
                yield
        else:
            yield


@pytest.mark.parametrize("size", [0, 4096, 16384])
@pytest.mark.parametrize("part", ["model", "optimizer"])
@pytest.mark.quick("model-4096", "optimizer-16384")
def test_failing_disk(
    out: Path, part: str, size: int, said: Callable[[], str], uninterrupted: dict[str, torch.Tensor]
) -> None:
    """disk full | run dies, partial newest blocks resume | an error that says so; what was committed is untouched."""
    trainer_class = type("SmallDisk", (SmallDisk,), {"part": part, "size": size})
    trainer, _ = managed(out, trainer_class=trainer_class, engine="stock")

    with pytest.raises(StorageError, match="checkpoint step 6 could not be written"):
        trainer.train()

    assert "Writing it anew" in said()
    assert steps(out) == [2, 4]
    assert all(Run.open(out).verify(c).ok for c in Run.open(out).checkpoints)
    assert not any((out / ".keepstep" / "staging").iterdir())
    assert unlocked(out)
    assert same(weights(train(out, True)[0].model), uninterrupted)


@pytest.mark.long
def test_failing_disk_under_stock(out: Path) -> None:
    """disk full | run dies, partial newest blocks resume."""
    trainer_class = type("SmallDisk", (SmallDisk,), {"part": "optimizer", "size": 4096})
    with pytest.raises(RuntimeError):
        stock(out, trainer_class=trainer_class).train()

    with pytest.raises(FileNotFoundError, match=r"trainer_state\.json"):
        stock(out).train(resume_from_checkpoint=True)


def test_disk_that_recovers(out: Path, said: Callable[[], str], uninterrupted: dict[str, torch.Tensor]) -> None:
    """disk full: a write that fails once is done anew, and the training goes on."""
    failures = [OSError(errno.ENOSPC, "No space left on device")]

    def fail_once() -> None:
        if failures:
            raise failures.pop()

    trainer, _ = train(out, trainer_class=interrupted_at("before the random states", fail_once))

    text = said()
    assert "WARNING: checkpoint step 6 could not be written: No space left on device." in text
    assert "Free space" in text or "Writing it anew" in text
    assert steps(out) == [2, 4, 6, 8, 10, 12]
    assert same(weights(trainer.model), uninterrupted)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_full_disk_is_named(tmp_path: Path, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """disk full: torch's writer hides the reason; a file system without room tells it. It fills between the look at
    what is free and the write.
    """
    monkeypatch.setattr(Checkpointer, "make_room", lambda self, step: None)
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(StorageError, match="refused for lack of room") as error:
            train(disk / "run", eval_strategy="no")
        assert error.value.errno == errno.ENOSPC
        text = said()
        assert "No space left on device" in text
        assert "Free space" in text
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_full_disk_says_what_to_do(out: Path, said: Callable[[], str]) -> None:
    """disk full: the error keeps its errno, and the log names the way out."""

    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match="refused for lack of room") as error:
        train(out, trainer_class=interrupted_at("after the weights", fail))

    assert error.value.errno == errno.ENOSPC
    assert "Free space" in said()
