"""The replayed schedule against a real training with the same metric: the same steps are left, for the same reasons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import keepstep
from keepstep.operations.simulation.replay import replay
from keepstep.operations.simulation.schedule import Schedule
from keepstep.retention import Metric, default_policy
from tests.training.tiny import NEWEST, Recipe, build

pytestmark = [
    pytest.mark.training,
    pytest.mark.skipif(not NEWEST, reason="the replay is of transformers 5, which evaluates the last step in any case"),
]

SCORES = {2: 0.3, 4: 0.6, 6: 0.8, 8: 0.5, 10: 0.7, 12: 0.9, 14: 0.4, 15: 0.2}


@pytest.mark.parametrize(("limit", "save_steps"), [(1, 4), (2, 2), (3, 5)])
@pytest.mark.quick(1)
def test_a_real_training_leaves_what_the_replay_says(tmp_path: Path, limit: int, save_steps: int) -> None:
    arguments: dict[str, Any] = {
        "save_steps": save_steps, "eval_strategy": "steps", "eval_steps": 2, "save_total_limit": limit,
        "metric_for_best_model": "eval_accuracy",
    }  # fmt: skip
    trainer = build(Recipe(arguments=arguments, scores=SCORES), tmp_path)
    ckpt = keepstep.attach(trainer)
    trainer.train()
    steps = trainer.state.global_step
    assert steps == 15
    replayed = replay(default_policy(limit, Metric("eval_accuracy", "max")), Schedule(steps, save_steps, 2), SCORES)
    events = list(ckpt.run.events.read())
    committed = [event["step"] for event in events if event["event"] == "committed"]
    removed = {event["step"]: event["reason"] for event in events if event["event"] == "removed"}
    assert committed == [moment.checkpoint.step for moment in replayed.moments]
    assert [c.step for c in ckpt.run.checkpoints] == [c.step for c in replayed.on_disk]
    assert removed == {c.step: reason for moment in replayed.moments for c, reason in moment.removed}
