"""Schedulers and optimizers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim import lr_scheduler
from transformers import Trainer

from tests.cases.parts import BY_SCORE, Scored, llama, trainer
from tests.cases.situation import Situation


class Falling(Scored):
    """Every evaluation finds less than the one before."""

    scores = {step: 0.5 - 0.01 * step for step in range(1, 21)}


def plateau(**arguments: Any) -> Callable[[Path], Trainer]:
    """A scheduler that halves the rate when the score falls."""
    settings: dict[str, Any] = {
        **BY_SCORE, "num_train_epochs": 4, "lr_scheduler_type": "reduce_lr_on_plateau",
        "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5, "mode": "max"}, **arguments,
    }  # fmt: skip
    return lambda out: trainer(out, Falling, **settings)


Schedule = Callable[[torch.optim.Optimizer], Any]
SCHEDULES: dict[str, tuple[str, Schedule]] = {
    "OneCycleLR": ("which moves the momentum too", lambda o: lr_scheduler.OneCycleLR(o, max_lr=1e-2, total_steps=11)),
    "SequentialLR": ("a warmup, then a cosine", lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=3), lr_scheduler.CosineAnnealingLR(o, 8)], [3])),
    "ChainedScheduler": ("two at once", lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 4), lr_scheduler.ExponentialLR(o, 0.9)])),
    "CyclicLR": ("up and down", lambda o: lr_scheduler.CyclicLR(o, 1e-3, 1e-2, step_size_up=3, cycle_momentum=False)),
    "CosineAnnealingWarmRestarts": ("which starts over", lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3)),
    "LambdaLR": ("a function for each group, which no file can hold", lambda o: lr_scheduler.LambdaLR(
        o, [lambda step: 0.9**step, lambda step: 0.8**step])),
    "no scheduler": ("the library makes its own", lambda o: None),
}  # fmt: skip


def handed_over(schedule: Schedule) -> Callable[[Path], Trainer]:
    """An optimizer of two groups and its scheduler, made by the script."""

    def build(out: Path) -> Trainer:
        model = llama()
        wide = [one for one in model.parameters() if one.ndim > 1]
        narrow = [one for one in model.parameters() if one.ndim <= 1]
        groups = [
            {"params": wide, "weight_decay": 0.1, "lr": 1e-2},
            {"params": narrow, "weight_decay": 0.0, "lr": 5e-3},
        ]
        optimizer = torch.optim.AdamW(groups)
        return trainer(out, model=model, parts={"optimizers": (optimizer, schedule(optimizer))})

    return build


def momentum(out: Path) -> Trainer:
    model = llama()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    return trainer(out, model=model, parts={"optimizers": (optimizer, lr_scheduler.StepLR(optimizer, 3, 0.5))})


class OwnNAdam(torch.optim.NAdam):
    """An optimizer of the user's own class."""


def of_own_class(out: Path) -> Trainer:
    return trainer(out, parts={"optimizer_cls_and_kwargs": (OwnNAdam, {"lr": 1e-2})})


def named(name: str) -> Situation:
    """An optimizer by the library's name for it."""
    return Situation(f"optim={name}", "an optimizer of the library's", lambda out: trainer(out, optim=name))


SITUATIONS = (
    Situation("plateau, evaluated with each save", "reduce_lr_on_plateau, by steps", plateau(), kill=8),
    Situation(
        "plateau, evaluated after the save",
        "saved by steps, evaluated at the end of an epoch",
        plateau(eval_strategy="epoch", save_steps=5),
        kill=10,
    ),
    Situation(
        "plateau, by epochs",
        "saved and evaluated at the end of an epoch",
        plateau(eval_strategy="epoch", save_strategy="epoch"),
        kill=10,
    ),
    *(
        Situation(f"optimizers=(AdamW, {name})", text, handed_over(schedule))
        for name, (text, schedule) in SCHEDULES.items()
    ),
    Situation("optimizers=(SGD, StepLR)", "momentum of Nesterov's", momentum),
    Situation("optimizer_cls_and_kwargs", "an optimizer of the user's own class", of_own_class),
    *map(named, ("adafactor", "adagrad", "rmsprop", "sgd", "adamw_torch_fused")),
)
