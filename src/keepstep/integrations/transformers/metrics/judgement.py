"""What a trainer calls its best by a judgement of its user's own, where that is not the stock one by a metric."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keepstep import layout
from keepstep.integrations.transformers.setup.own_code import is_stock
from keepstep.integrations.transformers.setup.policy import trainers_metric
from keepstep.model import FULL_PREFIX, parse_name


class Judgement:
    """Heard of a trainer's own `_determine_best_metric`, and of a path that somebody puts into its state.

    Where the stock Trainer judges by a metric it writes over what others put there, and so nothing is heard of that.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._shown: str | None = None
        self._put: Path | None = None

    def start(self) -> None:
        """Begin a training: what its state says now was said by nobody else."""
        self._shown, self._put = self._trainer.state.best_model_checkpoint, None

    @property
    def is_own(self) -> bool:
        """True for a trainer with a `_determine_best_metric` of its own."""
        return not is_stock(self._trainer, "_determine_best_metric")

    def ask(self, own: Callable[[], Any], metrics: Mapping[str, Any]) -> bool:
        """True when it says that the present step is the best so far; it may add metrics, and put into the state."""
        theirs = trainers_metric(self._trainer.args)
        try:
            return bool(own())
        except KeyError:
            # The stock judgement at its end raises it for a metric that this evaluation has not.
            if theirs is None or theirs.name in metrics:
                raise
            return False

    def show(self, path: str | None) -> None:
        """Let the state name a best checkpoint."""
        self._trainer.state.best_model_checkpoint = self._shown = path

    def heed(self) -> None:
        """Hear of what somebody has put into the state since `show`."""
        path, free = self._trainer.state.best_model_checkpoint, trainers_metric(self._trainer.args) is None
        if path != self._shown and (self.is_own or (free and not self._is_of_stock(path))):
            self._shown, self._put = path, None if path is None else Path(path)

    def _is_of_stock(self, path: str | None) -> bool:
        """True for what the stock Trainer puts there while a checkpoint is being written: the step that it was told."""
        parts = Path(path or "").parts
        return layout.META in parts and parts[-1] == f"{FULL_PREFIX}{self._trainer.state.best_global_step}"

    def step(self, run: Path) -> int | None:
        """The step of the run in `run` that is judged best, whether it is saved or not; None where none is."""
        if self.is_own and self._trainer.state.best_global_step:
            return self._trainer.state.best_global_step
        return None if self._put is None else _step_of(self._put, run)

    def elsewhere(self, run: Path) -> Path | None:
        """A directory outside of the run in `run` that somebody calls the best: it is left to him."""
        away = self._put is not None and self.step(run) is None and self._put.is_dir()
        return self._put if away else None


def _step_of(path: Path, run: Path) -> int | None:
    """The step of a checkpoint of a run, also by the path that it has while it is being written."""
    parsed = parse_name(path.name)
    within = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(run))
    return parsed[1] if parsed is not None and within else None
