"""Callbacks with a state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState

from tests.cases.facts import Facts
from tests.cases.parts import BEST_AT_END, Scored, trainer
from tests.cases.situation import Side, Situation, dying


class Counts(TrainerCallback, ExportableState):
    """Counts steps, and saves the count as the library lets callbacks do."""

    def __init__(self, name: str = "one", count: int = 0) -> None:
        self.name = name
        self.count = count

    def state(self) -> dict[str, Any]:
        return {"args": {"name": self.name}, "attributes": {"count": self.count}}

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.count += 1


class Patience(EarlyStoppingCallback):
    """An early stopping of the user's own class."""


def calling(*make: Callable[[], TrainerCallback]) -> Callable[[Path], Trainer]:
    """Twenty steps with a score that is best at step 4, and these callbacks."""
    return lambda out: scored(out, [one() for one in make])


def scored(out: Path, callbacks: Sequence[TrainerCallback] = ()) -> Trainer:
    return trainer(out, Scored, callbacks=callbacks, num_train_epochs=4, **BEST_AT_END)


def states(trainer: Trainer) -> Facts:
    """What the callbacks have counted."""
    callbacks = trainer.callback_handler.callbacks
    return {
        "counts": {one.name: one.count for one in callbacks if isinstance(one, Counts)},
        "patience": [
            (one.early_stopping_patience, one.early_stopping_patience_counter)
            for one in callbacks
            if isinstance(one, EarlyStoppingCallback)
        ],
    }


def added_late(kill: int | None) -> Callable[[Side, Path], Facts]:
    """Early stopping is added after `attach`."""

    def life(side: Side, out: Path) -> Facts:
        trainer = scored(out)
        if kill is not None:
            dying(trainer, kill, side)
        side.attach(trainer)
        trainer.add_callback(EarlyStoppingCallback(2))
        side.train(trainer)
        return {**side.facts(trainer), **states(trainer)}

    return life


SITUATIONS = (
    Situation("a callback that counts", "one callback exports its state", calling(Counts), kill=8, also=states),
    Situation(
        "two callbacks of one class",
        "two of them count, under names of their own",
        calling(lambda: Counts("one"), lambda: Counts("two")),
        kill=8,
        also=states,
    ),
    Situation(
        "two early stoppings",
        "with a patience of 3 and of 5",
        calling(lambda: EarlyStoppingCallback(3), lambda: EarlyStoppingCallback(5)),
        kill=8,
        also=states,
    ),
    Situation(
        "an early stopping of one's own",
        "a subclass of EarlyStoppingCallback",
        calling(lambda: Patience(3)),
        kill=8,
        also=states,
    ),
    Situation(
        "early stopping added after attach",
        "the callback comes once keepstep is there",
        scored,
        whole=added_late(None),
        broken=(added_late(6), added_late(None)),
    ),
    Situation(
        "started again once it has stopped early",
        "the same, and then the script is started a third time",
        scored,
        whole=added_late(None),
        broken=(added_late(6), added_late(None), added_late(None)),
    ),
)
