"""What attach says of a trainer: once, with ids and fixes, and nothing of what keepstep solves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import keepstep
from keepstep.integrations.transformers import managed as managed_room
from keepstep.integrations.transformers.saving.size import Size
from keepstep.integrations.transformers.setup import diagnosis
from keepstep.operations.doctor import RULES
from tests.failures.build import managed, stock, train

pytestmark = pytest.mark.training


@pytest.fixture(autouse=True)
def _on_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where these tests write is memory, which is a finding of its own."""
    monkeypatch.setattr("keepstep.operations.doctor.rules.places.MEMORY", frozenset())
    for name in ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)


def _ids(text: str) -> set[str]:
    return {id_ for id_ in RULES if f"[{id_}]" in text}


def test_each_finding_is_said_once_with_id_and_fix(out: Path, said: Callable[[], str]) -> None:
    train(out, eval_strategy="no", save_total_limit=1)
    text = said()
    for id_ in ("W102", "W204"):
        assert text.count(f"[{id_}]") == 1
        assert RULES[id_].fix in text
    assert "WARNING: save_total_limit=1: a single checkpoint to resume from is sure to stay" in text


@pytest.mark.parametrize(
    ("arguments", "id_"),
    [
        ({"save_strategy": "epoch", "num_train_epochs": 1}, "W301"),
        ({"save_steps": 12, "max_steps": 12}, "W301"),
        ({"save_strategy": "no"}, "W302"),
        ({"save_only_model": True}, "W305"),
        ({"eval_strategy": "no", "metric_for_best_model": "accuracy"}, "E101"),
        ({"save_steps": 3}, "W105"),
        ({}, "I202"),
    ],
)
def test_what_is_wrong_is_said(out: Path, said: Callable[[], str], arguments: dict[str, Any], id_: str) -> None:
    managed(out, **arguments)
    assert id_ in _ids(said())

    managed(out.with_name("right"), keep="best:2,latest:2")
    assert not _ids(said()), "a sound training"


def test_i109_the_table_corrects_the_guess(out: Path, said: Callable[[], str]) -> None:
    managed(out, metric_for_best_model="wer")
    assert "INFO: eval_wer: lower is better; transformers alone would have taken it the other way round" in said()
    for right in ({"metric_for_best_model": "accuracy"}, {"metric_for_best_model": "wer", "greater_is_better": False}):
        managed(out, **right)
        assert "I109" not in _ids(said())


@pytest.mark.parametrize(
    "arguments",
    [
        {"save_total_limit": 1, "metric_for_best_model": "accuracy"},
        {"save_strategy": "best", "metric_for_best_model": "eval_loss"},
        {"hub_token": "hf_x"},
        {"metric_for_best_model": "eval_loss", "save_steps": 4, "eval_steps": 2},
    ],
)
def test_what_keepstep_solves_is_not_said(out: Path, said: Callable[[], str], arguments: dict[str, Any]) -> None:
    managed(out, **arguments)
    assert {id_ for id_ in _ids(said()) if RULES[id_].solved} == set()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_adapter_that_is_not_saved_is_said(out: Path, said: Callable[[], str]) -> None:
    trainer = stock(out)
    get_peft_model(trainer.model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    keepstep.attach(trainer)
    assert "W601" in _ids(said())

    managed(out.with_name("lora"), lora={"r": 2})
    assert "W601" not in _ids(said())

    compiled = stock(out.with_name("compiled"), lora={"r": 2})
    compiled.model = torch.compile(compiled.model, backend="eager")
    keepstep.attach(compiled)
    assert "W601" not in _ids(said())


def test_a_grace_period_under_a_scheduler(out: Path, said: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    managed(out)
    assert "E503" not in _ids(said())
    monkeypatch.setattr(managed_room, "size_of", lambda _: Size(10**12, 10**12, 10**12))
    managed(out)
    assert "the grace period of SLURM is 30 s" in said()


def test_a_doctor_that_fails_keeps_nobody_from_training(
    out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(diagnosis, "judge", fail)
    with caplog.at_level(logging.DEBUG, logger="keepstep"):
        managed(out)
    assert "doctor could not examine this trainer" in caplog.text
