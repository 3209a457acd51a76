"""Metrics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback

from tests.cases.parts import BY_LOSS, SCORES, Remembers, data, trainer, weights_of_step
from tests.cases.situation import Situation, checkpoints
from tests.training import tiny


def of_two_sets(metric: str, **arguments: Any) -> Callable[[Path], Trainer]:
    """Two evaluation sets; one metric decides."""

    def build(out: Path) -> Trainer:
        sets = {"first": data(6, seed=2), "second": data(6, seed=3)}
        settings = {**BY_LOSS, "load_best_model_at_end": True, "save_total_limit": 2, "metric_for_best_model": metric}
        return trainer(out, held_out=sets, **settings, **arguments)

    return build


def of_a_set_with_a_slash(out: Path) -> Trainer:
    settings = {**BY_LOSS, "metric_for_best_model": "eval_en/de_loss", "save_strategy": "best", "save_total_limit": 1}
    return trainer(out, held_out={"en/de": data(6, seed=2)}, **settings)


class AddsQuality(Trainer):
    """`evaluate` adds a metric once the stock method has returned."""

    number: Callable[[float], Any] = float

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        metrics = super().evaluate(*args, **kwargs)
        score = SCORES[self.state.global_step]
        metrics["eval_quality"] = type(self).number(score)
        self.log({"eval_quality": score})
        return metrics


class AddsNumpy(AddsQuality):
    number = np.float32


class AddsTensor(AddsQuality):
    number = staticmethod(torch.tensor)


def by_quality(kind: type[Trainer]) -> Callable[[Path], Trainer]:
    """The best by what `evaluate` adds, loaded at the end."""
    return lambda out: trainer(
        out, kind, metric_for_best_model="eval_quality", greater_is_better=True, load_best_model_at_end=True,
        save_total_limit=2, callbacks=[Remembers()],
    )  # fmt: skip


def nested(_: Any) -> dict[str, Any]:
    return {"accuracy": 0.5, "by class": {"a": np.float32(0.25), "b": np.float64(0.5)}, "list": [1, 2], "text": "x"}


class LogsNumpy(Trainer):
    """Puts a value of its own into every line of the log."""

    value: Any = np.float32(0.5)

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super().log({**logs, "extra": self.value}, *args, **kwargs)


class LogsTensor(LogsNumpy):
    value = torch.tensor(0.5)


def trl(kind: str, metric: str, lora: bool) -> Callable[[Path], Trainer]:
    """A trainer of TRL's whose best is by a metric that it works out itself."""
    arguments = {
        "eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "num_train_epochs": 2, "save_total_limit": 2,
        "metric_for_best_model": metric, "greater_is_better": True, "load_best_model_at_end": True,
    }  # fmt: skip
    return lambda out: tiny.build(tiny.Recipe(kind=kind, lora=lora, arguments=arguments), out)


class AddsEqual(AddsQuality):
    """The same number at every step."""

    number = staticmethod(lambda _: 0.5)


class Patient(AddsQuality):
    """Calls a step the best only where it is better by 0.1 than the best before, and once step 3 is over."""

    def _determine_best_metric(self, metrics: dict[str, Any], trial: Any) -> bool:
        before = self.state.best_metric
        if self.state.global_step < 3 or (before is not None and metrics["eval_quality"] < before + 0.1):
            return False
        return super()._determine_best_metric(metrics, trial)


class Chooses(TrainerCallback):
    """Calls step 4 the best, by what no evaluation knows."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 4:
            state.best_model_checkpoint = f"{args.output_dir}/checkpoint-4"


def chosen_by_a_callback(out: Path) -> Trainer:
    """The best is loaded at the end, and the Trainer goes by no metric."""
    built = trainer(out, save_total_limit=1, callbacks=[Chooses(), Remembers()])
    built.args.load_best_model_at_end = True
    return built


BEST_IS_4 = {"best step": 4, "weights are of step": [4]}
SITUATIONS = (
    Situation(
        "several evaluation sets",
        "the loss of the second of two sets decides what is best",
        of_two_sets("eval_second_loss"),
    ),
    Situation(
        "several sets, a metric of none",
        "with two sets there is no eval_loss, which metric_for_best_model names",
        of_two_sets("loss"),
        kill=None,
    ),
    Situation(
        "a set's name with a slash",
        "save_strategy=best by the loss of a set called en/de",
        of_a_set_with_a_slash,
        kill=6,
    ),
    Situation(
        "a metric added by evaluate()",
        "an overridden evaluate adds the metric that decides",
        by_quality(AddsQuality),
        kill=6,
        also=weights_of_step,
        wants=BEST_IS_4,
    ),
    Situation(
        "a metric added by evaluate(), np.float32",
        "the same, as a number of numpy's",
        by_quality(AddsNumpy),
        kill=6,
        also=weights_of_step,
        wants=BEST_IS_4,
    ),
    Situation(
        "a metric added by evaluate(), tensor",
        "the same, as a tensor without dimensions",
        by_quality(AddsTensor),
        kill=6,
        also=weights_of_step,
        wants=BEST_IS_4,
    ),
    Situation(
        "steps that are equally good",
        "an evaluation finds the same number at every step; the best is loaded at the end",
        by_quality(AddsEqual),
        kill=6,
        also=weights_of_step,
        wants={"best step": 2, "weights are of step": [2]},
    ),
    Situation(
        "a judgement of its own",
        "_determine_best_metric asks for more than the metric to be better",
        by_quality(Patient),
        kill=6,
        also=weights_of_step,
        wants=BEST_IS_4,
    ),
    Situation(
        "the best named by a callback",
        "a callback puts a path into state.best_model_checkpoint",
        chosen_by_a_callback,
        kill=None,
        also=weights_of_step,
        wants={"best path": "checkpoint-4", "weights are of step": [4]},
    ),
    Situation(
        "a best that nobody asked for",
        "evaluated every 2 steps, saved every 4, and no metric is named",
        lambda out: trainer(out, save_steps=4, callbacks=[Remembers()]),
        also=lambda built: {"saved": sorted(path.name for path in checkpoints(Path(built.args.output_dir)))},
    ),
    Situation(
        "nested metrics",
        "compute_metrics returns dictionaries, lists and words",
        lambda out: trainer(out, parts={"compute_metrics": nested}),
    ),
    Situation(
        "np.float32 in the log",
        "an overridden log adds a number of numpy's, which JSON lacks",
        lambda out: trainer(out, LogsNumpy),
    ),
    Situation("a tensor in the log", "an overridden log adds a tensor", lambda out: trainer(out, LogsTensor)),
    Situation(
        "SFT by its own accuracy",
        "metric_for_best_model is eval_mean_token_accuracy, with LoRA",
        trl("sft", "eval_mean_token_accuracy", lora=True),
    ),
    Situation(
        "DPO by its own margins",
        "metric_for_best_model is eval_rewards/margins",
        trl("dpo", "eval_rewards/margins", lora=False),
    ),
)
