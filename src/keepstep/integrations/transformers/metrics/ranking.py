"""Which step is the best so far, and how what is evaluated reaches the checkpoint of its step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from keepstep.checkpointer import Checkpointer
from keepstep.engine import HeldFiles
from keepstep.integrations.transformers.metrics.evaluations import Evaluations
from keepstep.integrations.transformers.setup.messages import logger
from keepstep.model import Checkpoint
from keepstep.retention import Metric
from keepstep.snapshot.ranks import Ranks


class Ranking:
    """The metrics of one trainer's steps; `start` begins them anew for each training. `saved_step` is -1 before any."""

    def __init__(self, trainer: Any, checkpointer: Checkpointer, ranks: Ranks) -> None:
        self._trainer = trainer
        self._checkpointer = checkpointer
        self._ranks = ranks
        self.evaluations = Evaluations(checkpointer.policy.metric)
        self.start()

    def start(self, step: int = -1, metrics: Mapping[str, float] | None = None) -> None:
        """Begin a training, or go on from a saved step of this run and what is known of it."""
        self.saved_step = step
        self._new_best_step = -1
        self.evaluations.start(step, metrics)

    def rank_by(self, metric: Metric | None) -> None:
        """Compare by this metric from the next training on."""
        self.evaluations = Evaluations(metric)

    @property
    def is_new_best(self) -> bool:
        """True when the present step is the best so far, by its evaluation."""
        return self._new_best_step == self._trainer.state.global_step

    @property
    def is_saved(self) -> bool:
        """True when the present step is committed already, or on its way to the disk."""
        return self.saved_step == self._trainer.state.global_step

    def new_best(self, metrics: Mapping[str, Any], before: float | None) -> float | None:
        """The value by which the present step is a new best, agreed by all ranks; None when it is none."""
        step = self._trainer.state.global_step
        value = self._ranks.agree(partial(self.evaluations.new_best, metrics, before, step))
        if value is not None:
            self._new_best_step = step
        return value

    def note(self, metrics: Mapping[str, Any], *, join: bool) -> None:
        """Metrics of an evaluation at the present step; with `join` given to its checkpoint when that is saved."""
        step = self._trainer.state.global_step
        found = self.evaluations.note(step, metrics)
        if join and self.is_saved:
            self._trainer.state.best_model_checkpoint = self._ranks.agree(partial(self._record, step, found))

    def _record(self, step: int, found: dict[str, float]) -> str | None:
        """Join metrics to what was saved; returns the path of the best checkpoint."""
        if found:
            self._checkpointer.record(step, found)
        if found and not self._checkpointer.busy:
            self.name_best()
        return self._trainer.state.best_model_checkpoint

    def name_best(self) -> None:
        """Let the trainer's state name the best checkpoint that is committed."""
        best = self._checkpointer.run.best
        self._trainer.state.best_model_checkpoint = str(best.path) if best else None

    def best_that_holds(self, held: HeldFiles) -> Checkpoint | None:
        """The best checkpoint whose bytes are right, its weights held; damaged ones are passed over and said.

        None, which is said, when none is ranked.
        """
        run = self._checkpointer.run
        for checkpoint in run.ranking():
            verification = held.check_weights(checkpoint)
            if verification.ok:
                return checkpoint
            run.note_verified(verification)
            logger.warning("%s; the next best is loaded instead", verification.summary())
        logger.warning("load_best_model_at_end: no checkpoint can be ranked; the last weights stay")
        return None
