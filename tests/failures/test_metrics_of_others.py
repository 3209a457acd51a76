"""The metric is what the Trainer decides by, whoever has made it and in whatever form."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

pytest.importorskip("trl")

import keepstep
from keepstep.transformers import ManagedTrainer
from tests.engine import chosen
from tests.failures.build import (
    At,
    best,
    crash,
    events,
    latest,
    managed,
    names,
    rows,
    same,
    steps,
    stock,
    train,
    weights,
)  # fmt: skip
from tests.training.tiny import Recipe, build

pytestmark = pytest.mark.training

EARLY = {2: 0.3, 4: 0.9, 6: 0.5, 8: 0.4, 10: 0.2, 12: 0.1}
RANKED: dict[str, Any] = {
    "metric_for_best_model": "eval_quality", "greater_is_better": True, "load_best_model_at_end": True,
    "save_total_limit": 1,
}  # fmt: skip


class Judged(Trainer):
    """Adds a metric to what `Trainer.evaluate` returns, once that has told its callbacks."""

    kind: Any = float
    scores: dict[int, Any] = EARLY

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        metrics = super().evaluate(*args, **kwargs)
        value = self.scores.get(self.state.global_step)
        return metrics if value is None else {**metrics, "eval_quality": self.kind(value)}


def judged(kind: Any, scores: dict[int, Any] = EARLY) -> type[Trainer]:
    """A Judged whose metric is of that kind."""
    return type("Judged", (Judged,), {"kind": staticmethod(kind), "scores": scores})


KINDS = {
    "float": float, "float32": np.float32, "float64": np.float64, "0-d array": np.array, "tensor": torch.tensor,
    "one element": lambda value: torch.tensor([value]), "Decimal": lambda value: Decimal(str(value)),
    "bfloat16": lambda value: torch.tensor(value, dtype=torch.bfloat16),
}  # fmt: skip


def accuracies(out: Path, name: str) -> dict[int, float]:
    """A metric of the checkpoints on disk, by step."""
    return {c.step: c.metrics[name] for c in keepstep.Run.open(out).checkpoints if name in c.metrics}


# -- evaluate of others --------------------------------------------------------------------------------------


def test_a_metric_that_an_override_adds_ranks(out: Path, tmp_path: Path) -> None:
    """`super().evaluate()` has told all callbacks before the metric is there; the Trainer decides by it."""
    control = stock(tmp_path / "stock", trainer_class=Judged, **RANKED)
    control.train()

    trainer, checkpointer = train(out, trainer_class=Judged, **RANKED)

    assert best(checkpointer).step == 4 == control.state.best_global_step
    assert trainer.state.best_metric == control.state.best_metric == 0.9
    assert accuracies(out, "eval_quality") == {4: 0.9, 12: 0.1}
    assert same(weights(trainer.model), weights(control.model)), "of the best step"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.quick("[float]", "0-d", "tensor")
def test_a_metric_in_any_form_of_a_number_ranks(out: Path, kind: str) -> None:
    trainer, checkpointer = train(out, trainer_class=judged(KINDS[kind]), **RANKED)

    assert best(checkpointer).step == 4
    assert trainer.state.best_metric == pytest.approx(0.9, rel=0.01)
    assert type(trainer.state.best_metric) is float
    assert {type(value) for value in best(checkpointer).metrics.values()} == {float}


def test_an_override_below_the_managed_class_ranks(out: Path) -> None:
    class Explicit(ManagedTrainer, Judged):
        def evaluate(self, *args: Any, **kwargs: Any) -> Any:
            return {"eval_more": 1, **super().evaluate(*args, **kwargs)}

    plain = stock(out, **RANKED)
    trainer = Explicit(
        plain.model, plain.args, train_dataset=rows(), eval_dataset=rows(8), data_collator=plain.data_collator,
        keepstep=chosen(),
    )  # fmt: skip
    trainer.train()

    assert best(trainer.checkpointer).step == 4
    assert best(trainer.checkpointer).metrics["eval_more"] == 1.0


def test_an_evaluate_of_the_instance_ranks(out: Path) -> None:
    trainer, checkpointer = managed(out, **RANKED)
    evaluate = trainer.evaluate

    def scored(*args: Any, **kwargs: Any) -> Any:
        return {**evaluate(*args, **kwargs), "eval_quality": EARLY[trainer.state.global_step]}

    trainer.evaluate = scored
    trainer.train()

    assert best(checkpointer).step == 4


@pytest.mark.parametrize("attached", [False, True])
def test_an_evaluate_that_returns_nothing_goes_on(out: Path, attached: bool) -> None:
    class Silent(Trainer):
        def evaluate(self, *args: Any, **kwargs: Any) -> Any:
            super().evaluate(*args, **kwargs)

    trainer = (managed(out, trainer_class=Silent)[0]) if attached else stock(out, trainer_class=Silent)
    trainer.train()
    assert trainer.state.global_step == 12


def test_what_is_no_number_is_left_out(out: Path, said: Callable[[], str]) -> None:
    """Nested metrics, lists and texts beside the metric harm nothing, and nothing is said of them."""

    class Nested(Trainer):
        def evaluate(self, *args: Any, **kwargs: Any) -> Any:
            more = {"eval_classes": {"a": np.float32(0.5)}, "eval_list": [1, 2], "eval_text": "0.5", 7: 1.0}
            return {**super().evaluate(*args, **kwargs), **more}

    _, checkpointer = train(out, trainer_class=Nested, metric_for_best_model="loss")

    assert set(latest(checkpointer).metrics) == {"eval_loss"}
    assert "eval_classes" not in said()


@pytest.mark.parametrize("value", ["0.9", None, [0.9, 0.8], {"a": 0.9}])
@pytest.mark.quick(1)
def test_a_metric_that_is_no_number_is_said_once(out: Path, said: Callable[[], str], value: Any) -> None:
    trainer, checkpointer = train(out, trainer_class=judged(lambda _: value), **RANKED)

    kind = type(value).__name__
    assert said().count(f"eval_quality is a {kind} at step 2, no number: nothing is ranked by it") == 1
    assert trainer.state.global_step == 12
    assert trainer.state.best_metric is None
    assert latest(checkpointer).step == 12


def test_a_clock_time_ranks_where_it_is_the_metric(out: Path, tmp_path: Path) -> None:
    arguments = {"metric_for_best_model": "eval_samples_per_second", "greater_is_better": True}
    control = stock(tmp_path / "stock", **arguments)
    control.train()
    assert control.state.best_metric is not None

    trainer, checkpointer = train(out, **arguments)
    assert best(checkpointer).metrics["eval_samples_per_second"] == trainer.state.best_metric
    assert "eval_runtime" not in best(checkpointer).metrics


# -- several evaluation sets ---------------------------------------------------------------------------------


def _two_sets(trainer: Trainer) -> Trainer:
    trainer.eval_dataset = {"a": rows(8, seed=9), "b": rows(8, seed=10)}
    return trainer


def test_one_of_several_sets_decides(out: Path, tmp_path: Path) -> None:
    arguments = {"metric_for_best_model": "eval_b_loss", "load_best_model_at_end": True, "save_total_limit": 1}
    control = _two_sets(stock(tmp_path / "stock", **arguments))
    control.train()

    trainer, checkpointer = managed(out, **arguments)
    _two_sets(trainer).train()

    assert best(checkpointer).step == control.state.best_global_step
    assert trainer.state.best_metric == control.state.best_metric
    assert same(weights(trainer.model), weights(control.model))
    assert set(best(checkpointer).metrics) == {"eval_a_loss", "eval_b_loss"}


def test_the_loss_of_several_sets_names_theirs(out: Path, tmp_path: Path, said: Callable[[], str]) -> None:
    """No set reports `eval_loss`: the stock Trainer dies of it at the first evaluation."""
    with pytest.raises(KeyError):
        _two_sets(stock(tmp_path / "stock", metric_for_best_model="loss")).train()

    trainer = _two_sets(stock(out, metric_for_best_model="loss"))
    checkpointer = keepstep.attach(trainer, **chosen())
    assert (
        "eval_loss is not what this trainer evaluates (eval_a_loss, eval_b_loss): nothing can be ranked by it; "
        "did you mean eval_a_loss or eval_b_loss?"
    ) in said()

    trainer.train()
    assert "did you mean" not in said(), "said already"
    assert latest(checkpointer).step == 12


# -- a metric that is not there ------------------------------------------------------------------------------


def test_a_typo_is_said_at_attach_where_the_names_are_known(out: Path, said: Callable[[], str]) -> None:
    managed(out, metric_for_best_model="eval_los")
    assert "eval_los is not what this trainer evaluates (eval_loss)" in (text := said())
    assert "did you mean eval_loss?" in text

    for known in ("loss", "eval_loss", "eval_runtime"):
        managed(out, metric_for_best_model=known)
    managed(out, metric_for_best_model="eval_los", trainer_class=Judged)
    managed(out, metric_for_best_model="eval_los", scores=EARLY)
    managed(out, metric_for_best_model="eval_los", callbacks=[EvaluatesItself("on_evaluate")])
    assert "is not what this trainer evaluates" not in said(), "others may add to it"


def test_a_typo_is_said_at_the_first_evaluation(out: Path, tmp_path: Path, said: Callable[[], str]) -> None:
    settings: dict[str, Any] = {
        "scores": EARLY, "metric_for_best_model": "eval_accuarcy", "load_best_model_at_end": True,
        "save_total_limit": 2,
    }  # fmt: skip
    with pytest.raises(KeyError):
        stock(tmp_path / "stock", **settings).train()

    trainer, checkpointer = train(out, **settings)

    text = said()
    assert text.count("eval_accuarcy is not among the evaluation's metrics (eval_accuracy, eval_loss)") == 1
    assert "nothing is ranked by it; did you mean eval_accuracy?" in text
    assert "no checkpoint can be ranked; the last weights stay" in text
    assert trainer.state.global_step == 12
    assert steps(out) == [10, 12], "the newest"
    assert checkpointer.run.best is None


def test_a_metric_of_some_evaluations(out: Path, tmp_path: Path, said: Callable[[], str]) -> None:
    """A metric that costs much is computed now and then: the steps that have it are ranked."""
    some = {2: 0.3, 6: 0.9, 10: 0.5}
    with pytest.raises(KeyError):
        stock(tmp_path / "stock", trainer_class=judged(float, some), **RANKED).train()

    trainer, checkpointer = train(out, trainer_class=judged(float, some), **RANKED)

    assert best(checkpointer).step == 6
    assert trainer.state.best_metric == 0.9
    text = said()
    assert text.count("eval_quality is not among the metrics of step 4: a step without it is not ranked") == 1
    assert "nothing is ranked" not in text


def test_a_scheduler_that_waits_for_a_metric_of_some_evaluations(
    out: Path, tmp_path: Path, said: Callable[[], str]
) -> None:
    settings: dict[str, Any] = {
        "metric_for_best_model": "eval_quality", "greater_is_better": True,
        "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5, "mode": "max"},
    }  # fmt: skip
    with pytest.raises(KeyError):
        stock(tmp_path / "stock", trainer_class=judged(float, {4: 0.5}), **settings).train()
    control = stock(tmp_path / "control", trainer_class=judged(float, EARLY), **settings)
    control.train()

    trainer, _ = train(out, trainer_class=judged(float, {4: 0.5, 8: 0.4}), **settings)
    text = said()
    assert trainer.optimizer is not None and control.optimizer is not None
    assert trainer.optimizer.param_groups[0]["lr"] == 0.5e-2, "one evaluation was no better than the one before"
    assert text.count("the scheduler has nothing to go by, the learning rate stays") == 1

    trainer, _ = train(tmp_path / "all", trainer_class=judged(float, EARLY), **settings)
    assert trainer.optimizer is not None
    assert trainer.optimizer.param_groups[0]["lr"] == control.optimizer.param_groups[0]["lr"] == 1e-2 / 2**4


def test_another_missing_key_is_raised(out: Path) -> None:
    class Broken(Trainer):
        def evaluate(self, *args: Any, **kwargs: Any) -> Any:
            return {}["mine"]

    with pytest.raises(KeyError, match="mine"):
        train(out, trainer_class=Broken)


# -- evaluations and judgements of others --------------------------------------------------------------------


class EvaluatesItself(TrainerCallback):
    """Runs an evaluation of its own inside an event, which finds something much better, or worse."""

    def __init__(self, event: str, prefix: str = "eval") -> None:
        self.prefix = prefix
        self.trainer: Any = None
        self.own = False

        def on_event(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self.trainer is not None and not self.own and state.global_step in (5, 6, 7):
                self.own = True
                self.trainer.evaluate(rows(4, seed=77), metric_key_prefix=self.prefix)
                self.own = False

        setattr(self, event, on_event)


@pytest.mark.parametrize("prefix", ["eval", "test"])
@pytest.mark.parametrize("event", ["on_step_end", "on_evaluate", "on_save", "on_epoch_end"])
@pytest.mark.quick("step_end-eval", "on_save-eval", "epoch_end-test")
def test_an_evaluation_that_a_callback_runs_is_not_the_steps(
    out: Path, tmp_path: Path, event: str, prefix: str
) -> None:
    """What the Trainer judges by at each step is what is kept of it."""
    judged: dict[int, float] = {}

    class Noted(Trainer):
        def _determine_best_metric(self, metrics: Any, trial: Any) -> bool:
            judged[self.state.global_step] = metrics["eval_loss"]
            return super()._determine_best_metric(metrics, trial)

    callback, settings = EvaluatesItself(event, prefix), {"metric_for_best_model": "eval_loss", "save_steps": 1}
    control = callback.trainer = stock(tmp_path / "stock", callbacks=[callback], trainer_class=Noted, **settings)
    control.train()
    assert len(judged) >= 5, "an evaluation in on_step_end takes that of the step away"

    callback = EvaluatesItself(event, prefix)
    trainer, checkpointer = managed(out, callbacks=[callback], **settings)
    callback.trainer = trainer
    trainer.train()

    assert accuracies(out, "eval_loss") == judged
    assert not accuracies(out, "test_loss")
    assert trainer.state.best_metric == control.state.best_metric
    assert best(checkpointer).step == control.state.best_global_step


def test_a_metric_that_is_recorded_late_joins(out: Path) -> None:
    _, checkpointer = train(out, **{**RANKED, "save_total_limit": None}, trainer_class=Judged)
    checkpointer.record(12, {"eval_quality": 1.0})
    assert best(checkpointer).step == 12


def test_an_evaluation_after_the_save_of_its_step_joins(out: Path) -> None:
    _, checkpointer = train(out, eval_strategy="epoch", save_steps=3, metric_for_best_model="loss")
    assert sorted(accuracies(out, "eval_loss")) == [6, 12]
    assert len(events(out, "metrics")) == 2
    assert best(checkpointer).step in (6, 12)


def test_evaluations_of_others_count_where_the_trainer_runs_none(out: Path) -> None:
    callback = EvaluatesItself("on_step_end")
    callback.trainer, checkpointer = managed(out, metric="eval_loss", eval_strategy="no", callbacks=[callback])
    callback.trainer.train()
    assert list(accuracies(out, "eval_loss")) == [6]
    assert best(checkpointer).step == 6


class Patient(Trainer):
    """Takes no step for a new best that is better by less than 0.3; and makes the metric it judges by."""

    def _determine_best_metric(self, metrics: Any, trial: Any) -> bool:
        metrics["eval_quality"] = {2: 0.3, 4: 0.5, 6: 0.7, 8: 0.8, 10: 0.2, 12: 0.1}[self.state.global_step]
        before = self.state.best_metric
        if before is not None and metrics["eval_quality"] - before < 0.3:
            return False
        return super()._determine_best_metric(metrics, trial)


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.quick("True-1")
def test_a_judgement_of_somebodys_own_is_heard(
    out: Path, tmp_path: Path, said: Callable[[], str], limit: int | None, interrupted: bool
) -> None:
    """What it calls the best is held, named and loaded, whatever the metric says of others."""
    settings: dict[str, Any] = {**RANKED, "trainer_class": Patient, "save_total_limit": limit}
    control = stock(tmp_path / "stock", **settings)
    control.train()
    assert (control.state.best_metric, control.state.best_global_step) == (0.7, 6)
    if interrupted:
        crash(out, after=8, **settings)

    trainer, checkpointer = train(out, "auto" if interrupted else None, **settings)

    assert (trainer.state.best_metric, trainer.state.best_global_step) == (0.7, 6), "as it judges"
    assert best(checkpointer).metrics["eval_quality"] == 0.8, "the metric that it makes ranks"
    assert steps(out) == ([6, 8, 12] if limit else [2, 4, 6, 8, 10, 12])
    assert trainer.state.best_model_checkpoint == str(out / "checkpoint-6")
    assert same(weights(trainer.model), weights(control.model))
    assert "kept no longer" not in said()
    for step in (8, 12):
        assert named(out, step) == "checkpoint-6"


def named(out: Path, step: int) -> str | None:
    """What the state that a checkpoint records calls the best."""
    path = json.loads((out / f"checkpoint-{step}" / "trainer_state.json").read_text())["best_model_checkpoint"]
    return path and Path(path).name


def test_a_judgement_of_somebodys_own_changes_its_mind(out: Path) -> None:
    """The one that was judged best before is held until the next is committed, and goes by the rules then."""
    seen: dict[int, list[str]] = {}
    look = [At(step, lambda step=step, **_: seen.update({step: names(out)})) for step in (4, 6, 8)]

    train(out, **RANKED, trainer_class=Patient, callbacks=look)

    assert seen == {
        4: ["checkpoint-2", "checkpoint-4"], 6: ["checkpoint-6"], 8: ["checkpoint-6", "checkpoint-8"],
    }  # fmt: skip


class Finds(Trainer):
    """Judges by what the evaluations are not ranked by, and names the best itself."""

    def _determine_best_metric(self, metrics: Any, trial: Any) -> bool:
        if self.state.global_step != 4:
            return False
        self.state.best_model_checkpoint = f"{self.args.output_dir}/checkpoint-4"
        return True


class Names(TrainerCallback):
    """Calls a step the best, once that is saved."""

    def __init__(self, step: int, best: Callable[[Any], Path | str]) -> None:
        self.step, self.best = step, best

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            state.best_model_checkpoint = str(self.best(args))


@pytest.mark.parametrize(
    "settings",
    [
        {"trainer_class": Finds},
        {"callbacks": [Names(4, lambda args: f"{args.output_dir}/checkpoint-4")]},
        {"callbacks": [Names(4, lambda args: f"{args.output_dir}/checkpoint-4")], "eval_strategy": "no"},
    ],
    ids=["its own judgement", "a callback", "a callback, nothing evaluated"],
)
@pytest.mark.quick("judgement", "nothing")
def test_a_path_that_somebody_puts_into_the_state_is_the_best(out: Path, settings: dict[str, Any]) -> None:
    fourth: dict[str, torch.Tensor] = {}
    keep = At(4, lambda model, **_: fourth.update(weights(model)), "on_step_end")
    callbacks = [keep, *settings.get("callbacks", [])]

    trainer, _ = managed(out, **{**settings, "save_total_limit": 1, "callbacks": callbacks})
    trainer.args.load_best_model_at_end = True
    trainer.args.metric_for_best_model = None
    trainer.train()

    assert trainer.state.best_model_checkpoint == str(out / "checkpoint-4")
    assert "checkpoint-4" in names(out) and "checkpoint-12" in names(out)
    assert same(weights(trainer.model), fourth)
    assert named(out, 12) == "checkpoint-4"


def test_a_directory_of_somebodys_own_is_left_to_him(out: Path, tmp_path: Path) -> None:
    """As under stock: what a callback calls the best is loaded at the end, wherever it lies."""
    train(tmp_path / "mine", max_steps=2)
    mine = tmp_path / "mine" / "checkpoint-2"
    ended: list[dict[str, torch.Tensor]] = []
    for make in (lambda **more: stock(tmp_path / "stock", **more), lambda **more: managed(out, **more)[0]):
        trainer = make(callbacks=[Names(4, lambda _: mine)], seed=3)
        trainer.args.load_best_model_at_end = True
        trainer.train()
        assert trainer.state.best_model_checkpoint == str(mine)
        ended.append(weights(trainer.model))

    assert same(*ended)


def test_a_judgement_without_its_metric_goes_on(out: Path) -> None:
    class Missing(Trainer):
        def _determine_best_metric(self, metrics: Any, trial: Any) -> bool:
            return super()._determine_best_metric(metrics, trial)

    trainer, _ = train(out, trainer_class=Missing, metric_for_best_model="eval_quality", greater_is_better=True)
    assert trainer.state.global_step == 12


def test_ranking_by_another_metric_than_the_trainers_leaves_early_stopping_alone(out: Path, tmp_path: Path) -> None:
    """`attach(metric=...)` ranks checkpoints; what the Trainer and its callbacks go by stays what the user gave."""
    scores = {2: 0.9, 4: 0.1, 6: 0.2, 8: 0.95, 10: 0.3, 12: 0.2}
    settings: dict[str, Any] = {"scores": scores, "metric_for_best_model": "loss", "load_best_model_at_end": True}
    control = stock(tmp_path / "stock", callbacks=[EarlyStoppingCallback(1)], **settings)
    control.train()

    trainer, checkpointer = train(out, metric="accuracy", callbacks=[EarlyStoppingCallback(1)], **settings)

    assert trainer.state.global_step == control.state.global_step
    assert trainer.state.best_metric == control.state.best_metric
    assert best(checkpointer).step == 8 or trainer.state.global_step < 8
    assert best(checkpointer).metrics["eval_accuracy"] == max(accuracies(out, "eval_accuracy").values())


# -- TRL's ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
def test_a_metric_of_trl_ranks(out: Path, tmp_path: Path) -> None:
    """`SFTTrainer.log` adds it to what the evaluation has."""
    recipe = Recipe(
        "sft",
        arguments={
            "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "max_steps": 8, "load_best_model_at_end": True,
            "metric_for_best_model": "eval_mean_token_accuracy", "greater_is_better": True,
        },
    )  # fmt: skip
    control = build(recipe, tmp_path / "stock")
    control.train()
    trainer = build(recipe, out)
    checkpointer = keepstep.attach(trainer, **chosen())
    trainer.train()

    assert trainer.state.best_metric == control.state.best_metric
    assert best(checkpointer).metrics["eval_mean_token_accuracy"] == control.state.best_metric
    assert math.isfinite(best(checkpointer).metrics["eval_entropy"])
