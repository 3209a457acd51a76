"""The fast engine keeps every promise of the stock writers: exact resumes, kills, failing and slow disks."""

from __future__ import annotations

import errno
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from transformers import TrainerCallback

import holdfast
from holdfast.errors import SettingsError, StorageError
from holdfast.formats.sink import FileSink
from holdfast.integrations.transformers.engine import CHECK, parse_arena
from holdfast.snapshot.staging import StateChangedError
from tests.training.cells import Cell, complete, failures_of, inside
from tests.training.comparing import differences
from tests.training.tiny import Recipe, build, by_length

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]

FAST = {"engine": "fast"}
IN_A_SAVE = (
    "make_directory", "torch.save", "torch.save 2", "loop state", "tensor file", "tensor file 2", "sync_file 2",
    "write", "rename", "sync_directory 2", "delete", "append",
)  # fmt: skip
CELLS = (
    Cell("full", Recipe(holdfast=FAST), (4, 8, 12, 15), inside(2, *IN_A_SAVE)),
    Cell(
        "LoRA, accumulation 2, every second step",
        Recipe(lora=True, holdfast=FAST, arguments={"gradient_accumulation_steps": 2, "save_steps": 2}),
        (2, 4, 6, 8, 9),
    ),
    Cell(
        "every step saved",
        Recipe(rows=10, holdfast=FAST, arguments={"save_steps": 1, "num_train_epochs": 2}),
        (1, 2, 3, 4, 5, 6),
        inside(2, "tensor file", "rename", "append"),
    ),
    Cell(
        "evaluated after the save, by the epoch, the best loaded at the end",
        Recipe(
            holdfast=FAST,
            arguments={"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True},
        ),
        (5, 10, 15),
    ),
    Cell("grouped by length", Recipe(holdfast=FAST, arguments={**by_length(), "save_steps": 5}), (5, 10, 15)),
)


@pytest.fixture(autouse=True)
def _every_byte_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHECK, "1")


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_a_killed_training_ends_as_if_it_had_not_been_killed(cell: Cell, tmp_path: Path) -> None:
    failures = failures_of(cell, tmp_path)
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_both_engines_leave_the_same(lora: bool, tmp_path: Path) -> None:
    recipe = Recipe(lora=lora, arguments={"save_steps": 3})
    stock = complete(tmp_path / "stock", recipe)
    fast = complete(tmp_path / "fast", replace(recipe, holdfast=FAST))
    assert not differences(stock, fast)
    for name in ("model.safetensors", "adapter_model.safetensors"):
        for path in (stock / "run").glob(f"checkpoint-*/{name}"):
            assert path.read_bytes() == (fast / "run" / path.parent.name / name).read_bytes()


class _Sinks:
    """Puts faults and delays in front of every write of a tensor file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failing: set[int] = set()
        self.delay = 0.0
        self.calls = 0
        self.error = errno.EIO
        original = FileSink.write

        def write(sink: FileSink, *arguments: Any) -> None:
            self.calls += 1
            time.sleep(self.delay)
            if self.calls in self.failing:
                raise OSError(self.error, os.strerror(self.error))
            original(sink, *arguments)

        monkeypatch.setattr(FileSink, "write", write)


@pytest.fixture
def sinks(monkeypatch: pytest.MonkeyPatch) -> _Sinks:
    """Faults and delays, to be set by the test."""
    return _Sinks(monkeypatch)


def _attached(directory: Path, **options: Any) -> tuple[Any, holdfast.Checkpointer]:
    trainer = build(Recipe(rows=16, arguments={"save_steps": 1, "num_train_epochs": 1, "report_to": []}), directory)
    return trainer, holdfast.attach(trainer, **{**FAST, **options})


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_write_that_fails_once_is_made_good_by_the_next_step(tmp_path: Path, sinks: _Sinks, error: int) -> None:
    sinks.failing, sinks.error = {2}, error
    trainer, ckpt = _attached(tmp_path / "run")
    trainer.train()
    assert [event["retried"] for event in ckpt.run.events.read() if event["event"] == "failed"] == [True]
    assert ckpt.run.latest is not None and ckpt.run.latest.step == trainer.state.max_steps
    assert all(ckpt.run.verify(checkpoint).ok for checkpoint in ckpt.run.checkpoints)
    assert not list((tmp_path / "run" / ".holdfast" / "staging").iterdir())


def test_two_failures_in_a_row_reach_the_training(tmp_path: Path, sinks: _Sinks) -> None:
    trainer, ckpt = _attached(tmp_path / "run")
    sinks.failing = set(range(3, 100))
    with pytest.raises(StorageError, match="could not be written"):
        trainer.train()
    assert ckpt.run.latest is not None and ckpt.run.verify(ckpt.run.latest).ok
    with ckpt.run.writing():
        assert not list((tmp_path / "run" / ".holdfast" / "staging").iterdir())


def test_a_slow_disk_delays_and_loses_nothing(tmp_path: Path, sinks: _Sinks) -> None:
    sinks.delay = 0.05
    trainer, ckpt = _attached(tmp_path / "run")
    trainer.train()
    assert [checkpoint.step for checkpoint in ckpt.run.checkpoints] == list(range(1, trainer.state.max_steps + 1))
    assert all(ckpt.run.verify(checkpoint).ok for checkpoint in ckpt.run.checkpoints)


def test_an_exception_in_the_training_waits_for_the_save(tmp_path: Path, sinks: _Sinks) -> None:
    sinks.delay = 0.1

    class Fail(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 2:
                raise RuntimeError("out of memory")

    trainer, ckpt = _attached(tmp_path / "run")
    trainer.add_callback(Fail())
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    assert ckpt.run.latest is not None and ckpt.run.latest.step == 2


class _Meddler(TrainerCallback):
    """Changes a weight right after a save, while it is being copied."""

    def __init__(self, hidden: bool) -> None:
        self._hidden = hidden

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        weight = next(iter(model.parameters()))
        with torch.no_grad():
            (weight.data if self._hidden else weight).add_(1)


@pytest.mark.parametrize("hidden", [False, True], ids=["seen by its version", "behind the version's back"])
def test_a_planted_mutation_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: bool) -> None:
    monkeypatch.setattr("holdfast.snapshot.staging._copy_all", _late(monkeypatch))
    trainer, _ = _attached(tmp_path / "run")
    trainer.add_callback(_Meddler(hidden))
    with pytest.raises(StateChangedError, match="was changed while it was being saved"):
        trainer.train()


def _late(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The copy, begun late enough for the meddler to come first."""
    from holdfast.snapshot import staging

    original = staging._copy_all

    def copy_all(pieces: Any) -> None:
        time.sleep(0.2 if pieces else 0.0)
        original(pieces)

    return copy_all


def test_a_state_larger_than_the_arena_is_saved_by_the_stock_writers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, ckpt = _attached(tmp_path / "run", arena="0.01MB")
    trainer.train()
    assert "the stock writers save from here on" in caplog.text
    assert [checkpoint.step for checkpoint in ckpt.run.checkpoints] == list(range(1, trainer.state.max_steps + 1))


@pytest.mark.parametrize("size", ["16", "GB", "sixteen GB", "16PB", ""])
def test_an_arena_needs_a_number_and_a_unit(size: str) -> None:
    with pytest.raises(SettingsError, match="no size"):
        parse_arena(size)
    assert parse_arena("1.5GB") == 1_500_000_000
    assert parse_arena(" 512 MiB ") == 512 * 2**20


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="engine is 'warp'"):
        _attached(tmp_path / "run", engine="warp")
