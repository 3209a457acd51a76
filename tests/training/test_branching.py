"""A branch goes on as the run that it came from would have: bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import keepstep
from keepstep.operations.branching import branch, plan_branch
from keepstep.run import Run
from tests.training.comparing import checkpoint_differences, history_differences
from tests.training.tiny import Recipe, build

pytestmark = pytest.mark.training

RECIPE = Recipe(arguments={"max_steps": 8, "save_steps": 4, "eval_strategy": "steps", "eval_steps": 4})


def train(directory: Path, resume: Any) -> tuple[Any, Any]:
    trainer = build(RECIPE, directory)
    managed = keepstep.attach(trainer, keep="all")
    trainer.train(resume_from_checkpoint=resume)
    return trainer, managed.receipt


def test_a_branch_and_the_old_run_come_to_the_same(tmp_path: Path) -> None:
    train(tmp_path / "old", None)
    shutil.copytree(tmp_path / "old", tmp_path / "new-home" / "old")
    before = {path: path.read_bytes() for path in (tmp_path / "old" / "checkpoint-4").iterdir()}
    branch(plan_branch(Run.open(tmp_path / "old"), 4, tmp_path / "branch"))

    there, exact = train(tmp_path / "branch", "auto")
    here, as_exact = train(tmp_path / "new-home" / "old", 4)

    assert exact is not None and as_exact is not None
    assert (exact.step, exact.level) == (4, as_exact.level)
    assert str(exact.level) == "exact"
    assert not history_differences(there.state.log_history, here.state.log_history)
    for other in (tmp_path / "new-home" / "old", tmp_path / "old"):
        assert not checkpoint_differences(tmp_path / "branch" / "checkpoint-8", other / "checkpoint-8")
    assert {path: path.read_bytes() for path in before} == before
    new = Run.open(tmp_path / "branch")
    assert [(c.step, c.parent) for c in new.checkpoints] == [(4, None), (8, 1)]
    assert new.file.branched is not None
