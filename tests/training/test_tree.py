"""A tiny training below a directory with a budget: it asks for room, and says what its run allows others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("trl")

import keepstep
from keepstep import layout
from keepstep.operations.tree import report, set_budget
from keepstep.run import Run
from tests.training.tiny import Recipe, build

pytestmark = pytest.mark.training

EVERY_STEP = {"save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "num_train_epochs": 1}


def test_a_training_takes_the_room_of_one_that_shares_and_then_gives_up_its_own(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    before = build(Recipe(arguments=EVERY_STEP), root / "before")
    keepstep.attach(before, keep="all", shared=True)
    before.train()
    assert json.loads((root / "before" / layout.RUN).read_text())["shared"] is True
    run = Run.open(root / "before")
    kept = {checkpoint.generation for checkpoint in (run.latest, run.best) if checkpoint is not None}
    count, one = len(run.checkpoints), run.checkpoints[0].size_bytes

    set_budget(root, report_of(root) + one)  # room for one, and a training that saves `count`
    trainer = build(Recipe(arguments=EVERY_STEP), root / "now")
    ckpt = keepstep.attach(trainer, keep="all")
    trainer.train()

    assert {checkpoint.generation for checkpoint in Run.open(root / "before").checkpoints} == kept
    assert ckpt.refused == []
    assert len(ckpt.run.checkpoints) < count, "where the other has no more to give, its own go"
    assert ckpt.run.latest is not None and ckpt.run.latest.step == trainer.state.max_steps
    found = report(root)
    assert found.taken_bytes <= found.budget.budget
    reasons = [event["reason"] for event in run.events.read() if event["event"] == "removed"]
    assert reasons and all(str(root / "now") in reason for reason in reasons)


def report_of(root: Path) -> int:
    """Bytes that a tree takes now."""
    set_budget(root, 1)
    return report(root).taken_bytes
