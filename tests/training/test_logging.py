"""What a training logs is in its run's history, attempt by attempt, and can't hurt it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import numpy as np
import torch
from transformers import TrainerCallback

import keepstep
from keepstep.integrations.transformers.metrics.logbook import Logbook
from keepstep.operations.seeing.curves import curves
from keepstep.run import History, Run
from tests.training.tiny import Recipe, build

pytestmark = pytest.mark.training


class Stop(TrainerCallback):
    """Raises at the end of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def trainer_in(directory: Path, **options: Any) -> Any:
    trainer = build(Recipe(arguments={"eval_strategy": "steps", "eval_steps": 4}), directory)
    keepstep.attach(trainer, **options)
    return trainer


def interrupted(directory: Path, step: int, resume: Any = None) -> None:
    trainer = trainer_in(directory)
    trainer.add_callback(Stop(step))
    with pytest.raises(KeyboardInterrupt):
        trainer.train(resume_from_checkpoint=resume)


def test_the_history_is_the_log_of_the_trainer(tmp_path: Path) -> None:
    interrupted(tmp_path, 10)
    trainer = trainer_in(tmp_path)
    trainer.train(resume_from_checkpoint="auto")
    trainer.evaluate()  # no part of the training

    run = Run.open(tmp_path)
    found = curves(run)

    first, second = (span.attempt for span in found.spans)
    assert (first.from_step, first.from_generation, first.ended) == (None, None, "failed")
    assert (second.from_step, second.from_generation, second.ended) == (8, 2, "finished")
    assert found.max_steps == trainer.state.max_steps == second.max_steps
    logged: dict[str, list[tuple[int, float]]] = {}
    # The last entry is that of the evaluation behind the training.
    for entry in trainer.state.log_history[:-1]:
        for name, value in entry.items():
            # A callback of transformers' own takes total_flos out of what those behind it see.
            if name not in ("step", "epoch", "total_flos"):
                logged.setdefault(name, []).append((entry["step"], value))
    live = {
        name: [pair for strand in strands if strand.live for pair in zip(strand.steps, strand.values, strict=True)]
        for name, strands in found.strands.items()
    }
    assert live.keys() == logged.keys()
    assert {"loss", "learning_rate", "grad_norm", "eval_loss"} <= live.keys()
    assert live == logged
    assert [s.steps for s in found.strands["loss"] if not s.live] == [(9,)]
    assert all(point.epoch is not None for point in History(run.store).points)


def test_a_rewind_is_told_by_its_timeline(tmp_path: Path) -> None:
    interrupted(tmp_path, 10)
    trainer_in(tmp_path).train(resume_from_checkpoint=4)
    spans = curves(Run.open(tmp_path)).spans
    assert [(s.attempt.timeline, s.attempt.from_step) for s in spans] == [(1, None), (2, 4)]


def test_a_new_run_takes_the_old_history_away(tmp_path: Path) -> None:
    interrupted(tmp_path, 6)
    old = Run.open(tmp_path)
    before = old.store.local_path(".keepstep/metrics.jsonl").read_bytes()
    trainer_in(tmp_path, fresh="new-run").train()
    run = Run.open(tmp_path)
    assert [span.attempt.number for span in curves(run).spans] == [1]
    aside = tmp_path / ".keepstep/previous" / old.id / ".keepstep/metrics.jsonl"
    assert aside.read_bytes() == before


def test_a_history_that_can_not_be_written_hurts_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = trainer_in(tmp_path / "sound")
    expected.train()
    trainer = trainer_in(tmp_path / "run")
    os.makedirs(tmp_path / "run/.keepstep/metrics.jsonl")

    trainer.train()

    assert len([text for text in caplog.messages if "wait in memory" in text]) == 1
    pairs = zip(expected.model.parameters(), trainer.model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    assert trainer.checkpointer.run.latest.step == expected.checkpointer.run.latest.step


def test_numbers_alone_are_noted(tmp_path: Path) -> None:
    checkpointer = keepstep.Checkpointer(tmp_path, "all")
    logs = {
        "epoch": 0.5, "loss": np.float32(0.5), "whole": 3, "flag": True, "text": "x", "beyond": 10**400,
        "tensor": torch.ones(()), "nothing": None, 7: 1.0, "\udc80": 2.0,
    }  # fmt: skip
    book, other = (Logbook(checkpointer, leads=leads) for leads in (True, False))
    book.log(1, logs)
    checkpointer.begin(None)
    run = checkpointer.run
    assert not run.store.exists(".keepstep/metrics.jsonl")
    for one in (other, book):
        one.begin(10, list)
        one.log(1, logs)
        one.log(2, {"text": "x"})
        one.end("finished")
        one.end("failed")
    checkpointer.close()
    (point,) = History(run.store).points
    assert (point.epoch, point.values) == (0.5, {"loss": 0.5, "whole": 3.0, "7": 1.0, "?": 2.0})
    (span,) = curves(run).spans
    assert span.attempt.ended == "finished"
