"""Attributes of others under names that TRL or keepstep use."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from transformers import Trainer

from tests.cases.facts import Facts
from tests.cases.parts import trainer
from tests.cases.situation import Situation


class Collecting(Trainer):
    """Collects a value at each step, to be told with the next line of the log."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        self.collect(model, loss.detach())
        return (loss, outputs) if return_outputs else loss

    def collect(self, model: Any, loss: torch.Tensor) -> None:
        raise NotImplementedError


class Flat(Collecting):
    """_metrics is a list of values by name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._metrics = defaultdict(list)

    def collect(self, model: Any, loss: torch.Tensor) -> None:
        self._metrics["mine"].append(float(loss))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        means = {name: sum(values) / len(values) for name, values in self._metrics.items() if values}
        self._metrics.clear()
        super().log({**logs, **means}, *args, **kwargs)


class Stored(Collecting):
    """_stored_metrics is a list of numpy's numbers by mode and name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stored_metrics = defaultdict(lambda: defaultdict(list))

    def collect(self, model: Any, loss: torch.Tensor) -> None:
        self._stored_metrics["train" if model.training else "eval"]["mine"].append(np.float32(loss))


class Words(Stored):
    """_stored_metrics holds tensors of several values, and words."""

    def collect(self, model: Any, loss: torch.Tensor) -> None:
        self._stored_metrics["train"]["by row"].append(torch.ones(3))
        self._stored_metrics["train"]["text"].append("x")


class Sums(Trainer):
    """_metrics holds running sums, no lists."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._metrics = {"train": {"n": 0.0, "loss": 0.0}, "eval": {}}


class Tokens(Trainer):
    """Has a tensor for a count, and a `checkpointer` of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._total_train_tokens = torch.tensor(0)
        self.checkpointer = "mine"


def own_checkpointer(trainer: Trainer) -> Facts:
    return {"checkpointer": repr(trainer.checkpointer)}


SITUATIONS = (
    Situation(
        "_metrics of lists by name",
        "a log that spans a save tells the mean of what was collected",
        lambda out: trainer(out, Flat, logging_steps=3),
    ),
    Situation(
        "_metrics of lists, without evaluation",
        "the same, with values at every save",
        lambda out: trainer(out, Flat, logging_steps=3, eval_strategy="no"),
    ),
    Situation("_stored_metrics of numpy's numbers", "np.float32 by mode and name", lambda out: trainer(out, Stored)),
    Situation(
        "_stored_metrics of tensors and words", "values that are no single numbers", lambda out: trainer(out, Words)
    ),
    Situation("_metrics of running sums", "numbers where TRL has lists", lambda out: trainer(out, Sums)),
    Situation(
        "an attribute called checkpointer",
        "and a token count that is a tensor",
        lambda out: trainer(out, Tokens),
        also=own_checkpointer,
        wants={"checkpointer": "'mine'"},
    ),
)
