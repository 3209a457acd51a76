"""Which step is the best so far, and how what is evaluated reaches the checkpoint of its step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from keepstep.checkpointer import Checkpointer
from keepstep.engine import HeldFiles
from keepstep.integrations.transformers.metrics.evaluations import Evaluations
from keepstep.integrations.transformers.metrics.numbers import number
from keepstep.integrations.transformers.setup.arguments import plain
from keepstep.integrations.transformers.setup.messages import logger
from keepstep.integrations.transformers.setup.policy import trainers_metric
from keepstep.model import Checkpoint
from keepstep.retention import Metric
from keepstep.snapshot.ranks import Ranks


class Ranking:
    """The metrics of one trainer's steps; `start` begins them anew for each training. `saved_step` is -1 before any."""

    def __init__(self, trainer: Any, checkpointer: Checkpointer, ranks: Ranks) -> None:
        self._trainer = trainer
        self._checkpointer = checkpointer
        self._ranks = ranks
        self.evaluations = Evaluations(None)
        self.evaluated: Mapping[str, Any] | None = None
        """What the evaluation that is under way has returned."""
        self.start()

    def start(self, step: int = -1, metrics: Mapping[str, float] | None = None) -> None:
        """Begin a training, or go on from a saved step of this run and what is known of it."""
        metric = self._metric
        self.saved_step = step
        self._new_best_step = -1
        self._best: float | None = None
        self._unloaded: set[int] = set()
        self._judged_by_own = self._schedule_warned = self._unranked_warned = False
        if step >= 0 and metric is not None and (best := self._checkpointer.run.best) is not None:
            self._best = metric.value(best.metrics)
        self.evaluations.start(metric, step, metrics)

    @property
    def _metric(self) -> Metric | None:
        return self._checkpointer.policy.metric

    @property
    def is_new_best(self) -> bool:
        """True when the present step is the best so far, by its evaluation."""
        return self._new_best_step == self._trainer.state.global_step

    @property
    def is_saved(self) -> bool:
        """True when the present step is committed already, or on its way to the disk."""
        return self.saved_step == self._trainer.state.global_step

    @property
    def greater_is_better(self) -> bool | None:
        """The direction for who reads it from the arguments; None where checkpoints are ranked by another metric."""
        metric, theirs = self._metric, trainers_metric(self._trainer.args)
        return metric.mode == "max" if metric and theirs and theirs.name == metric.name else None

    def judge(self, metrics: Mapping[str, Any], own: Callable[[], Any] | None, *, join: bool) -> bool:
        """Hear what the Trainer decides by; True when the present step is a new best, which is saved at any rate.

        `own` is the judgement of a trainer that has one: it may add metrics, and what it puts into the state stays.
        With `join` the metrics are given to the step's checkpoint where that is saved already. All ranks agree.
        """
        state, args = self._trainer.state, self._trainer.args
        theirs = trainers_metric(args)
        metrics = metrics if isinstance(metrics, Mapping) else {}  # pyright: ignore[reportUnnecessaryIsInstance]
        shared = own is None and (theirs is None or self.greater_is_better is not None)
        before = state.best_metric if shared else self._best
        if own is not None:
            self._judged_by_own = True
            _ask(own, theirs, metrics)
        self.note(metrics, join=join)
        value = self._ranks.agree(partial(self.evaluations.new_best, metrics, before, state.global_step))
        if value is not None:
            self._best, self._new_best_step = value, state.global_step
            if shared:
                state.best_metric = value
            if plain(args.save_strategy) != "no":
                state.best_global_step = state.best_global_step if own else state.global_step
                self._trainer.control.should_save |= not self.is_saved
        if own is None and theirs is not None:
            self._follow(theirs, metrics, compare=not shared)
        return value is not None

    def lacks_schedule_metric(self) -> bool:
        """True, which is said once, where the last evaluation lacks the metric that the Trainer's scheduler is for."""
        theirs, step = trainers_metric(self._trainer.args), self._trainer.state.global_step
        if self.evaluated is None or theirs is None or theirs.name in self.evaluated:
            return False
        if not self._schedule_warned:
            text = "%s is not among the metrics of step %d: the scheduler has nothing to go by, the learning rate stays"
            logger.warning(text, theirs.name, step)
        self._schedule_warned = True
        return True

    def _follow(self, theirs: Metric, metrics: Mapping[str, Any], *, compare: bool) -> None:
        """Keep the state's best value as the stock Trainer does: early stopping and others read it."""
        state, value = self._trainer.state, number(metrics.get(theirs.name))
        if value is None:
            return
        if state.best_metric is None:
            state.best_metric = -math.inf if theirs.mode == "max" else math.inf
        if compare and theirs.better(value, state.best_metric):
            state.best_metric = value

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
        best = next(iter(self._ranked()), None)
        self._trainer.state.best_model_checkpoint = str(best.path) if best else None

    def _ranked(self, *, spoiled: bool = False) -> list[Checkpoint]:
        """Committed checkpoints, best first; first of all the one that a trainer with a judgement of its own chose.

        With `spoiled` those that are known to be damaged too.
        """
        ranked = list(self._checkpointer.run.ranking(spoiled=spoiled))
        if self._judged_by_own:
            step = self._trainer.state.best_global_step
            ranked.sort(key=lambda checkpoint: checkpoint.step != step)
        return sorted(ranked, key=lambda checkpoint: checkpoint.generation in self._unloaded)

    def pass_over(self, checkpoint: Checkpoint) -> None:
        """Hear of one that did not come back into the model: from here on it is named behind all others."""
        self._unloaded.add(checkpoint.generation)

    def name_best_at_the_end(self) -> None:
        """The same at the end of a training, where it is said when the best was to be loaded and there is none."""
        self.name_best()
        if self._trainer.args.load_best_model_at_end and self._trainer.state.best_model_checkpoint is None:
            self._warn_unranked()

    def best_that_holds(self, held: HeldFiles) -> Checkpoint | None:
        """The best checkpoint whose bytes are right, its weights held; damaged ones are passed over and said.

        Those that did not come back are no candidates. None when none is left, which is said where there never was one.
        """
        run, ranked = self._checkpointer.run, self._ranked(spoiled=True)
        judged = self._trainer.state.best_global_step
        if self._judged_by_own and judged and ranked and ranked[0].step != judged:
            text = "step %d, which this trainer judges best, is kept no longer: the best by the metric takes its place"
            logger.warning(text, judged)
        for checkpoint in ranked:
            if checkpoint.generation in self._unloaded:
                continue
            verification = held.check_weights(checkpoint)
            if verification.ok:
                return checkpoint
            run.note_verified(verification)
            text = "%s; the next best is loaded instead. %s"
            logger.warning(text, verification.summary(), verification.way_out())
        if not self._unloaded:
            self._warn_unranked()
        return None

    def _warn_unranked(self) -> None:
        if not self._unranked_warned:
            logger.warning("load_best_model_at_end: no checkpoint can be ranked; the last weights stay")
        self._unranked_warned = True


def _ask(own: Callable[[], Any], theirs: Metric | None, metrics: Mapping[str, Any]) -> None:
    try:
        own()
    except KeyError:
        # The stock judgement at its end raises it for a metric that this evaluation has not.
        if theirs is None or theirs.name in metrics:
            raise
