"""What stays on disk, and that the best and the newest are told apart."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from keepstep.run import Run
from tests.failures.build import At, best, crash, latest, managed, names, receipt, same, steps, stock, train, weights

pytestmark = pytest.mark.training

EARLY = {2: 0.9, 4: 0.8, 6: 0.7, 8: 0.1, 10: 0.2, 12: 0.3}
"""The first three evaluations are the best three."""


def test_limit_3_with_an_early_best(out: Path, tmp_path: Path) -> None:
    """limit 3, early best | keeps best-1 and newest 2 | best K and newest N."""
    arguments = {"scores": EARLY, "metric_for_best_model": "accuracy", "save_total_limit": 3}
    stock(tmp_path / "stock", **arguments).train()
    assert "checkpoint-4" not in names(tmp_path / "stock")

    _, checkpointer = train(out, **arguments)

    assert names(out) == ["checkpoint-2", "checkpoint-4", "checkpoint-6", "checkpoint-12"]
    assert best(checkpointer).step == 2
    assert latest(checkpointer).step == 12


@pytest.mark.parametrize("load_best", [False, True])
def test_limit_1(out: Path, load_best: bool) -> None:
    """limit 1 | deletes the **last** at the end | a resume point always stays."""
    trainer, _ = train(
        out, scores=EARLY, metric_for_best_model="accuracy", save_total_limit=1, load_best_model_at_end=load_best
    )

    assert names(out) == ["checkpoint-2", "checkpoint-12"]
    assert Run.open(out).resume_point("latest").checkpoint.step == 12
    assert trainer.args.save_total_limit == 1, "the user's argument is put back"
    if load_best:
        assert trainer.state.best_model_checkpoint == str(out / "checkpoint-2")


def test_limit_1_under_stock_deletes_the_last(tmp_path: Path) -> None:
    """limit 1 | deletes the **last** at the end."""
    stock(
        tmp_path, scores=EARLY, metric_for_best_model="accuracy", save_total_limit=1, load_best_model_at_end=True
    ).train()

    assert names(tmp_path) == ["checkpoint-2"]


def test_strategy_best(out: Path, tmp_path: Path) -> None:
    """strategy "best" | no late resume point | recovery and quality are separate."""
    arguments = {
        "scores": EARLY, "metric_for_best_model": "accuracy", "save_strategy": "best", "save_total_limit": 1,
    }  # fmt: skip
    stock(tmp_path / "stock", **arguments).train()
    assert names(tmp_path / "stock") == ["checkpoint-2"]

    _, checkpointer = train(out, **arguments)

    assert best(checkpointer).step == 2
    assert checkpointer.run.resume_point("auto").checkpoint.step == 12


@pytest.mark.parametrize("strategy", ["steps", "best"])
def test_all_nan_metric(out: Path, tmp_path: Path, said: Callable[[], str], strategy: str) -> None:
    """all-NaN metric | no best, no warning; "best" writes nothing | warned, newest kept, NaN ranks last."""
    arguments = {
        "scores": dict.fromkeys(range(2, 13, 2), math.nan), "metric_for_best_model": "accuracy",
        "save_strategy": strategy, "save_total_limit": 2, "load_best_model_at_end": strategy == "steps",
    }  # fmt: skip
    stock(tmp_path / "stock", **arguments).train()
    if strategy == "best":
        assert not (tmp_path / "stock").exists() or names(tmp_path / "stock") == []

    train(out, **arguments)

    assert "WARNING: eval_accuracy is NaN at step 2: it ranks last" in said()
    assert steps(out)[-1] == 12


def test_a_number_beats_nan(out: Path) -> None:
    """all-NaN metric: the one value that is a number is the best, wherever it stands."""
    scores = {**dict.fromkeys(range(2, 13, 2), math.nan), 8: 0.1}

    train(out, scores=scores, metric_for_best_model="accuracy", save_total_limit=1)

    assert names(out) == ["checkpoint-8", "checkpoint-12"]


def test_metric_key_missing(out: Path, tmp_path: Path, said: Callable[[], str]) -> None:
    """metric key missing | KeyError at the first evaluation | warned with the names there are, saved anyway."""
    arguments = {"scores": {}, "metric_for_best_model": "accuracy", "save_total_limit": 2}
    with pytest.raises(KeyError):
        stock(tmp_path / "stock", **arguments).train()

    train(out, **arguments, load_best_model_at_end=True)

    text = said()
    assert "WARNING: eval_accuracy is not among the evaluation's metrics (eval_loss, eval_other)" in text
    assert steps(out) == [10, 12], "a metric that never comes costs no checkpoints"


def test_eval_no_with_a_limit(out: Path, said: Callable[[], str]) -> None:
    """eval "no" + limit | newest kept, silently | said before step 1."""
    before: list[str] = []

    train(out, eval_strategy="no", save_total_limit=2, callbacks=[At(0, lambda **_: before.append(said()))])

    assert "WARNING: eval_strategy='no': nothing is evaluated, so no checkpoint can be called the best" in before[0]
    assert "keeping the latest 2; no metric" in before[0]
    assert names(out) == ["checkpoint-10", "checkpoint-12"]


PEAK = {2: 0.1, 4: 0.2, 6: 0.9, 8: 0.3, 10: 0.2, 12: 0.1}


def test_best_at_an_unsaved_step(out: Path, tmp_path: Path) -> None:
    """save 4, eval 2, best at an unsaved step | load_best **silently loads nothing** | a save on a new best."""
    arguments = {
        "scores": PEAK, "metric_for_best_model": "accuracy", "save_steps": 4, "load_best_model_at_end": True,
        "save_total_limit": 1,
    }  # fmt: skip
    peak: dict[str, torch.Tensor] = {}
    keep = At(6, lambda model, **_: peak.update(weights(model)), "on_evaluate")
    plain = stock(tmp_path / "stock", **arguments, callbacks=[keep])
    plain.train()
    assert peak
    assert not same(weights(plain.model), peak)

    peak.clear()
    trainer, checkpointer = train(out, **arguments, callbacks=[keep])

    assert same(weights(trainer.model), peak)
    assert trainer.state.best_global_step == 6
    assert trainer.state.best_model_checkpoint == str(out / "checkpoint-6")
    assert best(checkpointer).metrics["eval_accuracy"] == 0.9


def test_load_best_passes_over_a_damaged_best(out: Path, said: Callable[[], str]) -> None:
    """byte flip in weights: the next best that holds is loaded at the end, and that is said."""
    second: dict[str, torch.Tensor] = {}

    def damage(**_: object) -> None:
        path = out / "checkpoint-2" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")

    trainer, _ = train(
        out, scores=EARLY, metric_for_best_model="accuracy", load_best_model_at_end=True, save_total_limit=3,
        callbacks=[At(4, lambda model, **_: second.update(weights(model)), "on_evaluate"), At(8, damage)],
    )  # fmt: skip

    assert same(weights(trainer.model), second)
    assert "checkpoint-2" in said()


TIED = {2: 0.1, 4: 0.9, 6: 0.2, 8: 0.9, 10: 0.3, 12: 0.9}


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.quick("True")
def test_ties_go_to_the_earlier(out: Path, tmp_path: Path, interrupted: bool) -> None:
    """Checkpoints of one value: the first stays the best, as under stock, before and after a resume."""
    arguments: dict[str, Any] = {
        "scores": TIED, "metric_for_best_model": "accuracy", "save_total_limit": 1, "load_best_model_at_end": True,
    }  # fmt: skip
    control = stock(tmp_path / "stock", **arguments)
    control.train()
    if interrupted:
        crash(out, after=6, **arguments)

    trainer, checkpointer = train(out, "auto" if interrupted else None, **arguments)

    assert best(checkpointer).step == 4
    assert trainer.state.best_model_checkpoint == str(out / "checkpoint-4")
    assert trainer.state.best_global_step == control.state.best_global_step == 4
    assert same(weights(trainer.model), weights(control.model))
    named = {
        step: json.loads((out / f"checkpoint-{step}" / "trainer_state.json").read_text())["best_model_checkpoint"]
        for step in steps(out)
    }
    assert named == dict.fromkeys((4, 12), str(out / "checkpoint-4"))


class Saves(TrainerCallback):
    """Notes what is saved."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps.append(state.global_step)


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.quick(1)
def test_a_best_that_nobody_asks_for_makes_no_save(out: Path, tmp_path: Path, limit: int | None) -> None:
    """save 4, eval 2, and no word of a best: what is saved, and what callbacks hear of it, is as under stock."""
    saves, others = Saves(), Saves()
    stock(tmp_path / "stock", save_steps=4, save_total_limit=limit, callbacks=[others]).train()

    _, checkpointer = train(out, save_steps=4, save_total_limit=limit, callbacks=[saves])

    assert saves.steps == others.steps == [4, 8, 12]
    assert checkpointer.run.best is not None


@pytest.mark.parametrize(
    "asks",
    [{"metric_for_best_model": "accuracy"}, {"metric": "accuracy"}, {"keep": "best:1,latest:1", "mode": "max"}],
    ids=["a name in the arguments", "attach(metric=)", "keep"],
)
def test_whoever_asks_for_the_best_gets_it_saved(out: Path, asks: dict[str, Any]) -> None:
    """A best at an unsaved step is saved where it is asked for, in whichever way."""
    scored = {} if "keep" in asks else {"scores": PEAK}
    arguments: dict[str, Any] = {"save_steps": 12, **scored, **asks}
    saves = Saves()

    train(out, callbacks=[saves], **arguments)

    assert saves.steps[-1] == 12 and len(saves.steps) > 1
    assert scored == {} or saves.steps == [2, 4, 6, 12]


def test_a_best_is_asked_for_between_two_trainings(out: Path) -> None:
    """What the arguments say at `train()` counts."""
    saves = Saves()
    trainer, _ = managed(out, save_steps=12, scores=PEAK, callbacks=[saves])
    trainer.args.metric_for_best_model, trainer.args.greater_is_better = "accuracy", True

    trainer.train()

    assert saves.steps == [2, 4, 6, 12]


FOREIGN = ("checkpoint-best", "checkpoint-final", "checkpoint-6-tmp", "checkpoint-10.bak", "my-checkpoint-2")


def test_rotation(out: Path, tmp_path: Path) -> None:
    """rotation | deletes `checkpoint-best`, `-final`, `-6-tmp`, `-10.bak` | ours only."""
    for root in (out, tmp_path / "stock"):
        for name in FOREIGN:
            (root / name).mkdir(parents=True)
            (root / name / "model.safetensors").write_bytes(b"somebody's")
    stock(tmp_path / "stock", eval_strategy="no", save_total_limit=1).train()
    assert not set(FOREIGN) <= set(names(tmp_path / "stock"))

    train(out, eval_strategy="no", save_total_limit=1)

    assert set(names(out)) == {*FOREIGN, "checkpoint-12"}
    assert all((out / name / "model.safetensors").read_bytes() == b"somebody's" for name in FOREIGN)


def test_touched_folder(out: Path) -> None:
    """touched or copied folder | order by file time: wrong one deleted | generation."""

    def touch(**_: object) -> None:
        for step, time in ((2, 4e9), (4, 1e9), (6, 1e8)):
            os.utime(out / f"checkpoint-{step}", (time, time))

    train(out, eval_strategy="no", save_total_limit=3, callbacks=[At(6, touch)])

    assert steps(out) == [8, 10, 12]


@pytest.mark.parametrize("way", ["copied", "moved"])
def test_copied_or_moved_folder(out: Path, tmp_path: Path, way: str) -> None:
    """touched or copied folder | order by file time: wrong one deleted | generation."""
    arguments = {"scores": PEAK, "metric_for_best_model": "accuracy", "save_total_limit": 2}
    crash(out, after=8, **arguments)
    there = tmp_path / "elsewhere"
    if way == "copied":
        shutil.copytree(out, there, copy_function=shutil.copy)
    else:
        out.rename(there)
    for number, path in enumerate(sorted(there.glob("checkpoint-*"), reverse=True)):
        os.utime(path, (1e9 + number, 1e9 + number))
    run = Run.open(there)
    assert run.find("best").path == there / "checkpoint-6"
    assert run.find("latest").path == there / "checkpoint-8"
    assert run.resume_point("auto").path == there / "checkpoint-8"

    trainer, checkpointer = managed(there, **arguments, load_best_model_at_end=True)
    trainer.train(resume_from_checkpoint="auto")

    assert receipt(checkpointer).step == 8
    assert trainer.state.best_model_checkpoint == str(there / "checkpoint-6")
    assert names(there) == ["checkpoint-6", "checkpoint-8", "checkpoint-12"]
