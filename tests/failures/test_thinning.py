"""A training that thins its best checkpoints: the best is loaded at the end, and nobody resumes from weights alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.trainer_utils import get_last_checkpoint

from keepstep.errors import ResumeRefused
from tests.failures.build import Scores, crash, managed, names, same, train, weights

pytestmark = pytest.mark.training

SCORES: Scores = {2: 0.1, 4: 0.9, 6: 0.3, 8: 0.8, 10: 0.2, 12: 0.15}
RANKED = {"scores": SCORES, "metric_for_best_model": "accuracy", "load_best_model_at_end": True}


def test_the_best_is_thinned_loaded_at_the_end_and_no_resume_point(out: Path, said: Callable[[], str]) -> None:
    whole, _ = train(out.parent / "whole", keep="best:2:full,latest:1", **RANKED)
    trainer, _ = train(out, keep="best:2,latest:1", **RANKED)

    assert names(out) == ["weights-4", "weights-8", "checkpoint-12"]
    assert "thinned to weights 4" in said()
    assert same(weights(trainer.model), weights(whole.model))
    assert trainer.state.best_model_checkpoint == str(out / "weights-4")
    assert same(weights(AutoModelForCausalLM.from_pretrained(out / "weights-4")), weights(trainer.model))
    for name in ("model.safetensors", "config.json", "training_args.bin", "trainer_state.json"):
        assert (out / "weights-4" / name).is_file()
    assert get_last_checkpoint(str(out)) == str(out / "checkpoint-12")
    with pytest.raises(ResumeRefused, match="weights only") as error:
        managed(out, keep="best:2,latest:1", **RANKED)[0].train(resume_from_checkpoint="best")
    assert "Start a new run from its weights" in error.value.hint
    assert "steps 12" in error.value.hint


def test_a_limit_of_the_trainer_thins_nothing(out: Path) -> None:
    train(out, save_total_limit=2, **RANKED)
    assert names(out) == ["checkpoint-4", "checkpoint-8", "checkpoint-12"]


def test_a_resume_goes_on_beside_thinned_ones(out: Path, uninterrupted: dict[str, torch.Tensor]) -> None:
    kept = {"keep": "best:1,latest:1", "scores": SCORES, "metric_for_best_model": "accuracy"}
    crash(out, after=9, **kept)
    assert names(out) == ["weights-4", "checkpoint-8"]

    trainer, checkpointer = train(out, "auto", **kept)

    assert names(out) == ["weights-4", "checkpoint-12"]
    assert checkpointer.run.best is not None and checkpointer.run.best.step == 4
    assert same(weights(trainer.model), uninterrupted)
