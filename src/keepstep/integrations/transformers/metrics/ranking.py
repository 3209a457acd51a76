"""Which step is the best so far, and how what is evaluated reaches the checkpoint of its step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from keepstep.checkpointer import Checkpointer
from keepstep.engine import HeldFiles
from keepstep.integrations.transformers.metrics.evaluations import Evaluations
from keepstep.integrations.transformers.metrics.judgement import Judgement
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
        self.saves_best = True
        """Whether a new best is saved when no save is due."""
        self.evaluations = Evaluations(None)
        self.judgement = Judgement(trainer)
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
        self._schedule_warned = self._unranked_warned = False
        self.judgement.start()
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
        """Hear what the Trainer decides by; True when the present step is a new best: saved where one is asked for.

        `own` is the judgement of a trainer that has one: it may add metrics, and what it puts into the state stays.
        With `join` the metrics are given to the step's checkpoint where that is saved already. All ranks agree.
        """
        state, args = self._trainer.state, self._trainer.args
        theirs = trainers_metric(args)
        metrics = metrics if isinstance(metrics, Mapping) else {}  # pyright: ignore[reportUnnecessaryIsInstance]
        shared = own is None and (theirs is None or self.greater_is_better is not None)
        before = state.best_metric if shared else self._best
        judged = own is not None and self.judgement.ask(own, metrics)
        self.note(metrics, join=join)
        value = self._ranks.agree(partial(self.evaluations.new_best, metrics, before, state.global_step))
        if value is not None:
            self._best = value
            state.best_metric = value if shared else state.best_metric
        if value is not None or judged:
            self._new_best_step = state.global_step
            if plain(args.save_strategy) != "no":
                state.best_global_step = state.best_global_step if own else state.global_step
                self._trainer.control.should_save |= self.saves_best and not self.is_saved
        if own is None and theirs is not None:
            self._follow(theirs, metrics, compare=not shared)
        self._heed()
        return value is not None or judged

    @property
    def best_elsewhere(self) -> Path | None:
        """A directory outside of the run that somebody put into the state as the best: the stock Trainer loads it."""
        return self._heed()

    def _heed(self) -> Path | None:
        """Hold what is judged best by somebody else than the metric; returns it where it lies outside of the run."""
        run = self._checkpointer.path
        self.judgement.heed()
        self._checkpointer.judged.step = self.judgement.step(run)
        return self.judgement.elsewhere(run)

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
            self.judgement.show(self._ranks.agree(partial(self._record, step, found)))

    def _record(self, step: int, found: dict[str, float]) -> str | None:
        """Join metrics to what was saved; returns the path of the best checkpoint."""
        if found:
            self._checkpointer.record(step, found)
        if found and not self._checkpointer.busy:
            self.name_best()
        return self._trainer.state.best_model_checkpoint

    def name_best(self) -> None:
        """Let the trainer's state name the best checkpoint that is committed."""
        if self._heed() is None:
            best = next(iter(self._ranked()), None)
            self.judgement.show(str(best.path) if best else None)

    def name_with(self, metrics: Mapping[str, float], step: int, name: str) -> None:
        """The same, as it will be once a checkpoint of that step, with these metrics, is committed as `name`."""
        if self._heed() is not None:
            return
        run, judged = self._checkpointer.run, self._checkpointer.judged.step
        mine, best = run.path / name, next(iter(self._ranked()), None)
        if judged is not None and (judged == step or (best is not None and best.step == judged)):
            self.judgement.show(str(mine if judged == step or best is None else best.path))
        else:
            self.judgement.show(self.evaluations.best_path(metrics, mine, best))

    def _ranked(self, *, spoiled: bool = False) -> list[Checkpoint]:
        """Committed checkpoints, best first; first of all the one that a trainer with a judgement of its own chose.

        With `spoiled` those that are known to be damaged too.
        """
        run, step = self._checkpointer.run, self._checkpointer.judged.step
        ranked = list(run.ranking(spoiled=spoiled))
        if step is not None:
            judged = [c for c in run.checkpoints if c.step == step and (spoiled or not c.spoiled)][-1:]
            ranked = [*judged, *(checkpoint for checkpoint in ranked if checkpoint not in judged)]
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
        self._heed()
        run, ranked = self._checkpointer.run, self._ranked(spoiled=True)
        judged = self._checkpointer.judged.step
        if judged and ranked and ranked[0].step != judged:
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
