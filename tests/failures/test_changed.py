"""Resuming after something was changed: settings, data, optimizer, adapter, callbacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EarlyStoppingCallback
from transformers.trainer_utils import get_last_checkpoint

from keepstep.errors import KeepstepError, ResumeRefused
from tests.failures.build import (
    At,
    crash,
    events,
    files,
    logged,
    managed,
    names,
    receipt,
    rows,
    same,
    steps,
    stock,
    train,
    unlocked,
    weights,
)

pytestmark = pytest.mark.training


def reasons(checkpointer: Any) -> list[str]:
    """Each reason of the receipt with its level."""
    assert checkpointer.receipt is not None
    return [f"{reason.level.value}: {reason.text}" for reason in checkpointer.receipt.reasons]


def test_new_learning_rate_and_weight_decay(out: Path, said: Callable[[], str]) -> None:
    """new lr / weight decay on resume | silently ignored | shown as a difference."""
    crash(out, after=6)
    groups: list[dict[str, Any]] = []
    look = At(6, lambda optimizer, **_: groups.extend(map(dict, optimizer.param_groups)))

    _, checkpointer = train(out, True, learning_rate=5e-4, weight_decay=0.3, callbacks=[look])

    text = said()
    for line in ("learning_rate was 0.01, now 0.0005", "weight_decay was 0.0, now 0.3"):
        assert f"WARNING: approximate: {line}: the checkpoint's value stays in force" in text
    assert groups[0]["initial_lr"] == 1e-2, "what the line says is true"
    assert groups[0]["weight_decay"] == 0.0
    assert receipt(checkpointer).level == "approximate"


GRADIENT_ACCUMULATION = ({}, {"gradient_accumulation_steps": 2}, "gradient_accumulation_steps was 1, now 2")
FEWER_ROWS = ({"data": rows(24)}, {"data": rows(12)}, "rows was 24, now 12")


@pytest.mark.parametrize(("before", "now", "why"), [GRADIENT_ACCUMULATION, FEWER_ROWS])
def test_nothing_left_to_train(out: Path, before: dict[str, Any], now: dict[str, Any], why: str) -> None:
    """grad_accum 1→2, dataset 12→6 rows | "completed", 0 steps, silent | refused or mapped, with the reason."""
    crash(out, after=8, **before)
    saved = files(out / "checkpoint-8")

    with pytest.raises(ResumeRefused, match=r"step 8 of 12; .* the whole training has 6 steps") as refusal:
        train(out, True, **now)

    assert why in str(refusal.value)
    assert unlocked(out)
    assert names(out)[-1] == "checkpoint-8"
    assert files(out / "checkpoint-8") == saved


@pytest.mark.parametrize(("before", "now", "why"), [GRADIENT_ACCUMULATION, FEWER_ROWS])
@pytest.mark.long
def test_nothing_left_to_train_under_stock(out: Path, before: dict[str, Any], now: dict[str, Any], why: str) -> None:
    """grad_accum 1→2, dataset 12→6 rows | "completed", 0 steps, silent."""
    crash(out, after=8, attached=False, **before)

    trainer = stock(out, **now)
    trainer.train(resume_from_checkpoint=True)

    assert trainer.state.global_step == 8


@pytest.mark.parametrize(
    ("before", "now", "line"),
    [
        ({}, {"data": rows(seed=5)}, "approximate: the training data has other contents"),
        ({}, {"seed": 7}, "approximate: seed was 42, now 7"),
        ({}, {"data_seed": 7}, "approximate: data_seed was not set, now 7"),
        ({"lora": {"lora_alpha": 8}}, {"lora": {"lora_alpha": 16}}, "approximate: adapter: lora_alpha was 8, now 16"),
    ],
    ids=["data", "seed", "data seed", "LoRA alpha"],
)
@pytest.mark.quick("[data]", "[seed]")
def test_other_data_seed_or_alpha(
    out: Path, said: Callable[[], str], before: dict[str, Any], now: dict[str, Any], line: str
) -> None:
    """other dataset content, seed, LoRA alpha | silent | fingerprint, warned."""
    crash(out, after=6, **before)

    trainer, checkpointer = train(out, True, **now)

    assert line in reasons(checkpointer)
    assert f"WARNING: {line}" in said()
    assert trainer.state.global_step == 12


def test_save_eval_and_logging_steps_changed(out: Path) -> None:
    """save/logging steps changed on resume | checkpoint's values win | the user's win."""
    crash(out, after=4)

    trainer, checkpointer = train(out, True, logging_steps=3, save_steps=5, eval_steps=6)

    state = trainer.state
    assert (state.logging_steps, state.save_steps, state.eval_steps) == (3, 5, 6)
    assert logged(trainer, "loss") == [2, 4, 6, 9, 12]
    assert logged(trainer, "eval_loss") == [2, 4, 6, 12]
    assert set(steps(out)) >= {2, 4, 5, 10, 12}
    assert receipt(checkpointer).level == "equivalent"


@pytest.mark.long
def test_save_and_logging_steps_changed_under_stock(out: Path) -> None:
    """save/logging steps changed on resume | checkpoint's values win."""
    crash(out, after=4, attached=False)

    trainer = stock(out, logging_steps=3, save_steps=5)
    trainer.train(resume_from_checkpoint=True)

    assert trainer.state.logging_steps == 2


OPTIMIZER = ({}, {"optim": "sgd", "optim_args": "momentum=0.9"}, "optimizer adamw_torch_fused; this training uses sgd")
LORA_RANK = ({"lora": {"r": 4}}, {"lora": {"r": 8}}, "r was 4, now 8")
ADAPTER_ADDED = ({}, {"lora": {"r": 4}}, "does not fit this model")


@pytest.mark.parametrize(
    ("before", "now", "why"), [OPTIMIZER, LORA_RANK, ADAPTER_ADDED], ids=["optimizer", "LoRA rank", "LoRA added"]
)
def test_optimizer_or_shape_changed(out: Path, before: dict[str, Any], now: dict[str, Any], why: str) -> None:
    """optimizer type, LoRA rank changed | obscure crash (KeyError 'momentum') | a message before anything is loaded."""
    crash(out, after=4, **before)
    trainer, _ = managed(out, **now)
    untouched = weights(trainer.model)

    with pytest.raises(ResumeRefused, match=why):
        trainer.train(resume_from_checkpoint=True)

    assert same(weights(trainer.model), untouched)
    assert unlocked(out)
    assert steps(out) == [2, 4]


def test_optimizer_of_the_same_state(out: Path, tmp_path: Path) -> None:
    """optimizer type changed: AdamW is AdamW, whichever implementation a version has for its default."""
    plain, fused = {"optim": "adamw_torch"}, {"optim": "adamw_torch_fused"}
    crash(out, after=6, **plain)

    trainer, checkpointer = train(out, True, **fused)

    assert trainer.state.global_step == 12
    assert reasons(checkpointer) == ["equivalent: optimizer: class was adamw_torch, now adamw_torch_fused"]
    whole = weights(train(tmp_path / "whole", **plain)[0].model)
    assert all(torch.allclose(value, whole[name], atol=1e-4) for name, value in weights(trainer.model).items())


def test_optimizer_object_changed(out: Path) -> None:
    """optimizer type changed: the same where the optimizer is an object of the user's."""
    crash(out, after=4)
    trainer, _ = managed(out)
    trainer, _ = managed(out.with_name("other"), optimizers=(torch.optim.SGD(trainer.model.parameters(), lr=0.1), None))

    with pytest.raises(ResumeRefused, match="this training uses SGD"):
        trainer.train(resume_from_checkpoint=str(out / "checkpoint-4"))


@pytest.mark.parametrize(("before", "now"), [OPTIMIZER[:2], LORA_RANK[:2]])
@pytest.mark.long
def test_optimizer_or_rank_changed_under_stock(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """optimizer type, LoRA rank changed | obscure crash (KeyError 'momentum')."""
    crash(out, after=4, attached=False, **before)

    with pytest.raises((KeyError, RuntimeError)):
        stock(out, **now).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.quick("[1]")
def test_a_refused_resume_changes_nothing(out: Path, limit: int | None) -> None:
    """optimizer type changed: nothing is set aside or removed for a resume that is refused."""
    crash(out, after=6)

    with pytest.raises(ResumeRefused):
        train(out, 2, optim="sgd", save_total_limit=limit)

    assert steps(out) == [2, 4, 6]


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.quick(1)
def test_an_empty_resume_changes_nothing(out: Path, limit: int | None) -> None:
    """grad_accum 1→2: nothing is set aside or removed for a resume that is refused."""
    crash(out, after=10)

    with pytest.raises(ResumeRefused):
        train(out, 8, gradient_accumulation_steps=2, save_total_limit=limit)

    assert steps(out) == [2, 4, 6, 8, 10]


WORSE = {2: 0.9, 4: 0.8, 6: 0.7, 8: 0.6, 10: 0.5, 12: 0.4}
RANKED: dict[str, Any] = {"scores": WORSE, "metric_for_best_model": "accuracy"}


def test_early_stopping_added(out: Path) -> None:
    """EarlyStopping added on resume | KeyError at first save | works."""
    crash(out, after=4, **RANKED)

    trainer, _ = train(out, True, **RANKED, callbacks=[EarlyStoppingCallback(2)])

    assert trainer.state.global_step == 8
    assert steps(out)[-1] == 8


@pytest.mark.long
def test_early_stopping_added_under_stock(out: Path) -> None:
    """EarlyStopping added on resume | KeyError at first save."""
    crash(out, after=4, attached=False, **RANKED)

    with pytest.raises(KeyError):
        stock(out, **RANKED, callbacks=[EarlyStoppingCallback(2)]).train(resume_from_checkpoint=True)


def test_early_stopping_patience(out: Path) -> None:
    """EarlyStopping patience | reset | restored."""
    crash(out, after=6, **RANKED, callbacks=[EarlyStoppingCallback(3)])

    trainer, _ = train(out, True, **RANKED, callbacks=[EarlyStoppingCallback(3)])

    assert trainer.state.global_step == 8


def test_early_stopping_patience_setting_is_the_users(out: Path) -> None:
    """EarlyStopping patience: its counter goes on, its setting is the one of now."""
    crash(out, after=6, **RANKED, callbacks=[EarlyStoppingCallback(3)])

    trainer, _ = train(out, True, **RANKED, callbacks=[EarlyStoppingCallback(4)])

    assert trainer.state.global_step == 10


@pytest.mark.long
def test_early_stopping_patience_under_stock(out: Path) -> None:
    """EarlyStopping patience | reset."""
    crash(out, after=6, attached=False, **RANKED, callbacks=[EarlyStoppingCallback(3)])

    trainer = stock(out, **RANKED, callbacks=[EarlyStoppingCallback(3)])
    trainer.train(resume_from_checkpoint=True)

    assert trainer.state.global_step == 12


def test_save_only_model(out: Path, tmp_path: Path) -> None:
    """save_only_model, resumed | silent fresh optimizer | marked not resumable."""
    arguments = {**RANKED, "save_only_model": True, "save_total_limit": 2}
    crash(tmp_path / "stock", after=4, attached=False, **arguments)
    resumed = stock(tmp_path / "stock", **arguments)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 12

    crash(out, after=4, **arguments)

    assert names(out) == ["weights-2", "weights-4"]
    assert get_last_checkpoint(str(out)) is None
    for resume in (True, "auto", "latest", "best", 4, "step:4", str(out / "weights-4"), out / "weights-4"):
        with pytest.raises(KeepstepError, match="weights only"):
            train(out, resume, **arguments)
    assert names(out) == ["weights-2", "weights-4"]


def test_save_only_model_is_said_at_the_start(out: Path, said: Callable[[], str]) -> None:
    """save_only_model: that such a run can't be resumed is said before step 1."""
    before: list[str] = []

    train(out, save_only_model=True, callbacks=[At(0, lambda **_: before.append(said()))])

    assert "WARNING: save_only_model=True" in before[0]


def test_save_only_model_loads_the_best(out: Path) -> None:
    """save_only_model: the best weights are loaded at the end all the same."""
    best: dict[str, torch.Tensor] = {}
    keep = At(2, lambda model, **_: best.update(weights(model)), "on_evaluate")

    trainer, _ = train(
        out, **RANKED, save_only_model=True, save_total_limit=1, load_best_model_at_end=True, callbacks=[keep]
    )

    assert names(out) == ["weights-2", "weights-12"]
    assert same(weights(trainer.model), best)


def test_the_event_log_has_the_resume(out: Path) -> None:
    """seed changed: the event log of the run says so as well."""
    crash(out, after=4)

    train(out, True, seed=7)

    (resumed,) = events(out, "resumed")
    assert resumed["level"] == "approximate"
    assert {"level": "approximate", "text": "seed was 42, now 7"} in resumed["reasons"]
