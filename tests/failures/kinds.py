"""Kinds of models, their trainings left alone, crashed and managed, and what is asked of each."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments, default_data_collator

import keepstep
from keepstep import Checkpointer
from tests.failures.build import ARGUMENTS, CrashAfter, Crashed, rows

SCORES = {2: 0.3, 4: 0.9, 6: 0.5, 8: 0.4}
"""The best is step 4, which is far from the last."""
SETTINGS = {**ARGUMENTS, "max_steps": 8, "metric_for_best_model": "eval_accuracy"}


@dataclass(frozen=True)
class Kind:
    """A model, the callbacks that it trains with, and how many of its tensors no stock file holds at step 4."""

    build: Callable[[], Any]
    extra: int = 0
    callbacks: tuple[type[TrainerCallback], ...] = ()


def trainer_of(
    kind: Kind, out: Path, *callbacks: TrainerCallback, cls: type[Trainer] = Trainer, **arguments: Any
) -> Any:
    """A stock Trainer of a kind, whose evaluations find `SCORES`."""
    trainer = cls(
        kind.build(),
        TrainingArguments(os.fspath(out), **{**SETTINGS, **arguments}),
        train_dataset=rows(),
        eval_dataset=rows(8, seed=9),
        data_collator=default_data_collator,
        callbacks=[*(callback() for callback in kind.callbacks), *callbacks],
    )
    trainer.compute_metrics = lambda _: {"accuracy": SCORES.get(trainer.state.global_step, 0.0)}
    return trainer


def managed(
    kind: Kind, out: Path, engine: str, *callbacks: TrainerCallback, **settings: Any
) -> tuple[Any, Checkpointer]:
    trainer = trainer_of(kind, out, *callbacks, **settings)
    return trainer, keepstep.attach(trainer, engine=engine)  # pyright: ignore[reportArgumentType]


def undisturbed(kind: Kind, out: Path, **arguments: Any) -> Any:
    """A training that nothing interrupts, and nobody manages."""
    trainer = trainer_of(kind, out, eval_strategy="no", **arguments)
    trainer.train()
    return trainer


def check_resume(kind: Kind, home: Path, out: Path, engine: str) -> None:
    """A training that crashes behind step 4 and is resumed ends as one that was left alone, and says that it does."""
    alone = undisturbed(kind, home / "alone")
    crashed(managed(kind, out, engine, eval_strategy="no")[0], 4)
    trainer, checkpointer = managed(kind, out, engine, eval_strategy="no")
    trainer.train(resume_from_checkpoint=True)
    assert unequal(state(alone.model), state(trainer.model)) == []
    assert losses(alone) == losses(trainer)
    assert checkpointer.receipt is not None
    assert [str(reason) for reason in checkpointer.receipt.reasons] == []


def check_best(kind: Kind, out: Path, engine: str) -> None:
    """The best at the end is what was saved at step 4, and what trains trains still."""
    memory = Remembering()
    trainer, checkpointer = managed(kind, out, engine, memory, load_best_model_at_end=True)
    trains = {key for key, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    trainer.train()
    assert checkpointer.run.best is not None and checkpointer.run.best.step == 4
    assert unequal(memory.model, state(trainer.model)) == []
    assert {key for key, parameter in trainer.model.named_parameters() if parameter.requires_grad} == trains


def crashed(trainer: Any, step: int) -> None:
    trainer.add_callback(CrashAfter(step))
    with pytest.raises(Crashed):
        trainer.train()


def state(model: Any) -> dict[str, torch.Tensor]:
    """A copy of everything in a model, by name."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def unequal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Names of what is in one of both alone, or differs."""
    both = one.keys() & other.keys()
    return sorted((one.keys() ^ other.keys()) | {name for name in both if not torch.equal(one[name], other[name])})


def losses(trainer: Any) -> list[Any]:
    return [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


class Remembering(TrainerCallback):
    """Keeps a copy of the model as it was when step 4 was saved."""

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == 4:
            self.model = {name: value.clone() for name, value in model.state_dict().items()}
