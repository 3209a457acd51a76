"""A Trainer with a mirror: the machine is lost, an empty one goes on, and the result is that of the undisturbed run."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch

import keepstep
from keepstep.mirror import open_mirror
from keepstep.run import Run
from tests import engine
from tests.training.comparing import checkpoint_differences
from tests.training.tiny import Recipe, build

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]

EACH = {"max_steps": 8, "save_strategy": "steps", "save_steps": 2, "logging_steps": 1}


class _Lost(Exception):
    """The machine goes."""


def _train(directory: Path, mirror: str | None, *, lost_at: int | None = None) -> list[torch.Tensor]:
    trainer = build(Recipe(arguments=EACH), directory)
    if lost_at is not None:
        original = trainer.training_step

        def step(*arguments: object, **options: object) -> torch.Tensor:
            if trainer.state.global_step >= lost_at:
                raise _Lost
            return original(*arguments, **options)

        trainer.training_step = step
    keepstep.attach(trainer, mirror=mirror, keep="all", **engine.chosen())
    trainer.train(resume_from_checkpoint="auto")
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


def test_an_empty_machine_goes_on_bit_for_bit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    undisturbed = _train(tmp_path / "undisturbed", None)
    mirror = str(tmp_path / "mirror")
    with pytest.raises(_Lost):
        _train(tmp_path / "run", mirror, lost_at=5)
    assert [record.checkpoint.step for record in open_mirror(mirror).records()] == [4, 2]
    shutil.rmtree(tmp_path / "run")
    with caplog.at_level(logging.INFO, "keepstep"):
        after = _train(tmp_path / "run", mirror)
    assert f"Step 4 comes from the mirror {mirror}" in caplog.text and "Resumed from step 4 (exact" in caplog.text
    assert all(torch.equal(one, other) for one, other in zip(undisturbed, after, strict=True))
    assert checkpoint_differences(tmp_path / "undisturbed" / "checkpoint-8", tmp_path / "run" / "checkpoint-8") == []
    assert [record.checkpoint.step for record in open_mirror(mirror).records()] == [8, 6, 4, 2]
    assert [checkpoint.step for checkpoint in Run.open(tmp_path / "run").checkpoints] == [4, 6, 8]


def test_the_environment_names_a_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSTEP_MIRROR", str(tmp_path / "mirror"))
    _train(tmp_path / "run", None)
    assert open_mirror(tmp_path / "mirror").records()[0].checkpoint.step == 8
