"""The fast engine keeps every promise of the stock writers: exact resumes, kills, failing and slow disks."""

from __future__ import annotations

import errno
import gc
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from transformers import TrainerCallback

import keepstep
from keepstep.engine.fast import CHECK
from keepstep.errors import SettingsError, StorageError
from keepstep.formats.sink import FileSink
from keepstep.snapshot import staging
from keepstep.snapshot.device import DeviceCopy
from keepstep.snapshot.staging import StateChangedError
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
    Cell("full", Recipe(keepstep=FAST), (4, 8, 12, 15), inside(2, *IN_A_SAVE)),
    Cell(
        "LoRA, accumulation 2, every second step",
        Recipe(lora=True, keepstep=FAST, arguments={"gradient_accumulation_steps": 2, "save_steps": 2}),
        (2, 4, 6, 8, 9),
    ),
    Cell(
        "every step saved",
        Recipe(rows=10, keepstep=FAST, arguments={"save_steps": 1, "num_train_epochs": 2}),
        (1, 2, 3, 4, 5, 6),
        inside(2, "tensor file", "rename", "append"),
    ),
    Cell(
        "evaluated after the save, by the epoch, the best loaded at the end",
        Recipe(
            keepstep=FAST,
            arguments={"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True},
        ),
        (5, 10, 15),
    ),
    Cell("grouped by length", Recipe(keepstep=FAST, arguments={**by_length(), "save_steps": 5}), (5, 10, 15)),
)


@pytest.fixture(autouse=True)
def _every_byte_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHECK, "1")


@pytest.mark.long
def test_a_training_that_is_killed_anywhere_in_a_save_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    assert failures_of(CELLS[0], tmp_path, CELLS[0].also) == []


@pytest.mark.parametrize("cell", CELLS[2:4], ids=lambda cell: cell.name)
def test_a_killed_training_ends_as_if_it_had_not_been_killed(cell: Cell, tmp_path: Path) -> None:
    assert failures_of(cell, tmp_path, cell.few) == []


@pytest.mark.long
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_and_so_it_does_wherever_it_is_killed(cell: Cell, tmp_path: Path) -> None:
    assert failures_of(cell, tmp_path) == []


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.quick(1)
def test_both_engines_leave_the_same(lora: bool, tmp_path: Path) -> None:
    recipe = Recipe(lora=lora, arguments={"save_steps": 3})
    stock = complete(tmp_path / "stock", recipe)
    fast = complete(tmp_path / "fast", replace(recipe, keepstep=FAST))
    assert not differences(stock, fast)
    for name in ("model.safetensors", "adapter_model.safetensors"):
        for path in (stock / "run").glob(f"checkpoint-*/{name}"):
            assert path.read_bytes() == (fast / "run" / path.parent.name / name).read_bytes()


def test_what_is_copied_from_a_device_is_written_as_it_is(tmp_path: Path) -> None:
    """The CPU plays the device here: the way is the same, its streams do nothing."""
    plain, one = _attached(tmp_path / "plain")
    plain.train()
    trainer, two = _attached(tmp_path / "device")
    engine = trainer._keepstep.saves.engine
    engine._device = DeviceCopy(torch.device("cpu"))
    trainer.train()
    assert trainer._keepstep.saves.engine is engine
    for first, second in zip(one.run.checkpoints, two.run.checkpoints, strict=True):
        assert _tensors(first) == _tensors(second) and two.run.verify(second).ok


def test_a_device_without_host_memory_for_a_copy_is_saved_by_the_stock_writers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, ckpt = _attached(tmp_path / "run", arena="0.01MB")
    trainer._keepstep.saves.engine._device = DeviceCopy(torch.device("cpu"))
    trainer.train()
    assert "the stock writers save from here on" in caplog.text and "has to be copied" in caplog.text
    assert ckpt.run.latest is not None and ckpt.run.latest.step == trainer.state.max_steps


class _Sinks:
    """Puts faults and delays in front of every write of a tensor file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failing: set[int] = set()
        self.delay = 0.0
        self.open = threading.Event()
        self.open.set()
        self.calls = 0
        self.error = errno.EIO
        original = FileSink.write

        def write(sink: FileSink, *arguments: Any) -> None:
            self.calls += 1
            time.sleep(self.delay)
            assert self.open.wait(60)
            if self.calls in self.failing:
                raise OSError(self.error, os.strerror(self.error))
            original(sink, *arguments)

        monkeypatch.setattr(FileSink, "write", write)


@pytest.fixture
def sinks(monkeypatch: pytest.MonkeyPatch) -> _Sinks:
    """Faults and delays, to be set by the test."""
    return _Sinks(monkeypatch)


def _attached(directory: Path, **options: Any) -> tuple[Any, keepstep.Checkpointer]:
    trainer = build(Recipe(rows=16, arguments={"save_steps": 1, "num_train_epochs": 1, "report_to": []}), directory)
    return trainer, keepstep.attach(trainer, **{**FAST, **options})


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_a_write_that_fails_once_is_made_good_by_the_next_step(tmp_path: Path, sinks: _Sinks, error: int) -> None:
    sinks.failing, sinks.error = {2}, error
    trainer, ckpt = _attached(tmp_path / "run")
    trainer.train()
    assert [event["retried"] for event in ckpt.run.events.read() if event["event"] == "failed"] == [True]
    assert ckpt.run.latest is not None and ckpt.run.latest.step == trainer.state.max_steps
    assert all(ckpt.run.verify(checkpoint).ok for checkpoint in ckpt.run.checkpoints)
    assert not list((tmp_path / "run" / ".keepstep" / "staging").iterdir())


def test_the_last_save_that_fails_once_is_written_anew(tmp_path: Path, sinks: _Sinks) -> None:
    trainer, ckpt = _attached(tmp_path / "run")
    trainer.train()
    writes, sinks.calls = sinks.calls, 0
    sinks.failing = {writes}
    again, ckpt = _attached(tmp_path / "again")
    again.train()
    assert [event["step"] for event in ckpt.run.events.read() if event["event"] == "failed"] == [again.state.max_steps]
    assert ckpt.run.latest is not None and ckpt.run.latest.step == again.state.max_steps


def test_two_failures_in_a_row_reach_the_training(tmp_path: Path, sinks: _Sinks) -> None:
    trainer, ckpt = _attached(tmp_path / "run")
    sinks.failing = set(range(3, 100))
    with pytest.raises(StorageError, match="could not be written"):
        trainer.train()
    assert ckpt.run.latest is not None and ckpt.run.verify(ckpt.run.latest).ok
    with ckpt.run.writing():
        assert not list((tmp_path / "run" / ".keepstep" / "staging").iterdir())


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


def _meddle(trainer: Any, hidden: bool) -> None:
    """Change a weight in the first forward pass after a save, while it is being copied."""
    saved: list[int] = []

    def change(module: Any, arguments: Any) -> None:
        if trainer.state.global_step == 1 and not saved:
            saved.append(1)
            weight = next(iter(module.parameters()))
            with torch.no_grad():
                (weight.data if hidden else weight).add_(1)

    trainer.model.register_forward_pre_hook(change)


@pytest.mark.parametrize("hidden", [False, True], ids=["seen by its version", "behind the version's back"])
def test_a_planted_mutation_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: bool) -> None:
    _copy_late(monkeypatch)
    trainer, _ = _attached(tmp_path / "run")
    _meddle(trainer, hidden)
    with pytest.raises(StateChangedError, match="was changed while it was being saved"):
        trainer.train()


def test_a_mutation_makes_the_automatic_engine_stock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _copy_late(monkeypatch)
    trainer, ckpt = _attached(tmp_path / "run", engine="auto")
    _meddle(trainer, False)
    trainer.train()
    assert "the stock writers save from here on" in caplog.text
    assert [checkpoint.step for checkpoint in ckpt.run.checkpoints] == list(range(2, trainer.state.max_steps + 1))
    kept = [event["engine"] for event in ckpt.run.events.read() if event["event"] == "kept"]
    assert set(kept) == {"stock"}


def _copy_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy begins late enough for a forward pass to come first."""
    original = staging.copy_all

    def copy_all(pieces: Any) -> None:
        time.sleep(0.2 if pieces else 0.0)
        original(pieces)

    monkeypatch.setattr(staging, "copy_all", copy_all)


def test_a_callback_that_changes_weights_waits_for_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights as they were saved, although somebody changes them right afterwards."""

    class Average(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            with torch.no_grad():
                next(iter(model.parameters())).data.mul_(0.5)

    _copy_late(monkeypatch)
    trainer, ckpt = _attached(tmp_path / "run")
    trainer.add_callback(Average())
    trainer.train()
    assert [checkpoint.step for checkpoint in ckpt.run.checkpoints] == list(range(1, trainer.state.max_steps + 1))
    assert not [event for event in ckpt.run.events.read() if event["event"] == "failed"]


def test_a_callback_that_reads_checkpoints_finds_them_committed(tmp_path: Path, sinks: _Sinks) -> None:
    found: list[str] = []

    class Upload(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            found.extend(sorted(file.name for file in path.glob("*.json*") if file.name == "keepstep.json"))

    sinks.delay = 0.05
    trainer, _ = _attached(tmp_path / "run")
    trainer.add_callback(Upload())
    trainer.train()
    assert found == ["keepstep.json"] * trainer.state.max_steps


def test_a_state_larger_than_the_arena_is_written_in_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sinks: _Sinks
) -> None:
    sinks.delay = 0.02
    trainer, ckpt = _attached(tmp_path / "run", arena="0.01MB")
    trainer.train()
    assert caplog.text.count("the next optimizer step waits for the disk") == 1
    roomy, other = _attached(tmp_path / "roomy")
    roomy.train()
    for one, two in zip(ckpt.run.checkpoints, other.run.checkpoints, strict=True):
        assert _tensors(one) == _tensors(two)


def _tensors(checkpoint: Any) -> dict[str, str]:
    return {f.path: f.digest for f in checkpoint.files if f.path in ("model.safetensors", "optimizer.pt")}


def test_a_disk_that_fails_in_place_lets_the_training_go_on(tmp_path: Path, sinks: _Sinks) -> None:
    sinks.failing = {3}
    trainer, ckpt = _attached(tmp_path / "run", arena="0.01MB")
    trainer.train()
    assert len([event for event in ckpt.run.events.read() if event["event"] == "failed"]) == 1
    assert ckpt.run.latest is not None and ckpt.run.latest.step == trainer.state.max_steps


@pytest.mark.parametrize("rule", ["skip", "latest"])
@pytest.mark.quick(1)
def test_a_busy_disk_turns_saves_away(tmp_path: Path, sinks: _Sinks, rule: str, caplog: Any) -> None:
    sinks.delay = 0.4
    trainer, ckpt = _attached(tmp_path / "run", back_pressure=rule)
    trainer.train()
    steps = [checkpoint.step for checkpoint in ckpt.run.checkpoints]
    events = list(ckpt.run.events.read())
    turned_away = [event["step"] for event in events if event["event"] == "skipped"]
    assert steps[0] == 1 and steps[-1] == trainer.state.max_steps
    assert turned_away and not set(turned_away) & set(steps)
    assert sorted([*steps, *turned_away]) == list(range(1, trainer.state.max_steps + 1))
    assert ("is left out" if rule == "skip" else "once there is room") in caplog.text


def test_a_save_that_was_put_off_is_made_up_for(tmp_path: Path, sinks: _Sinks) -> None:
    """Saved every third step; the disk is busy at step 6 and free again by step 8."""
    trainer = build(Recipe(rows=24, arguments={"save_steps": 3, "num_train_epochs": 2}), tmp_path / "run")
    ckpt = keepstep.attach(trainer, **FAST, back_pressure="latest")

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                sinks.open.clear()
            if state.global_step == 8:
                sinks.open.set()
                ckpt.wait()

    trainer.callback_handler.callbacks.insert(0, Clock())
    trainer.train()
    steps = [checkpoint.step for checkpoint in ckpt.run.checkpoints]
    assert steps[:2] == [3, 8] and steps[-1] == 12


@pytest.mark.parametrize(("engine", "user"), [("fast", True), ("fast", False), ("stock", True)])
def test_no_garbage_is_sought_while_a_training_is_held_up(tmp_path: Path, engine: str, user: bool) -> None:
    sought: list[bool] = []
    trainer = build(Recipe(rows=12, arguments={"save_steps": 1, "num_train_epochs": 1}), tmp_path)
    keepstep.attach(trainer, engine=engine)
    stock = trainer._save_rng_state

    def save_rng_state(directory: str) -> None:
        sought.append(gc.isenabled())
        stock(directory)
        if len(sought) == 1:
            raise OSError(errno.EIO, "once")

    trainer._save_rng_state = save_rng_state  # type: ignore[method-assign]
    try:
        if not user:
            gc.disable()
        trainer.train()
        assert gc.isenabled() == user
    finally:
        gc.enable()
    assert len(sought) > 2 and set(sought) == {engine == "stock" and user}


def test_an_unknown_back_pressure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="back_pressure is 'drop'"):
        _attached(tmp_path / "run", back_pressure="drop")


def test_an_unknown_engine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="engine is 'warp'"):
        _attached(tmp_path / "run", engine="warp")
