"""One managed training: what it resumes from, where its loop stands, and how its saves are carried out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from keepstep.checkpointer import Checkpointer
from keepstep.integrations.transformers import messages
from keepstep.integrations.transformers.arguments import plain
from keepstep.integrations.transformers.data_order import sampler_of
from keepstep.integrations.transformers.engine import Choice
from keepstep.integrations.transformers.epochs import Epochs, is_whole
from keepstep.integrations.transformers.estimate import checkpoint_bytes, describe_saves, planned_saves
from keepstep.integrations.transformers.evaluations import Evaluations
from keepstep.integrations.transformers.fingerprint import fingerprint
from keepstep.integrations.transformers.holding import HeldFiles
from keepstep.integrations.transformers.loading import loads_whole_files
from keepstep.integrations.transformers.logbook import Logbook
from keepstep.integrations.transformers.loop_state import LoopState, Position, capture_trl, restore_trl
from keepstep.integrations.transformers.resuming import (
    make_receipt,
    read_trainer_state,
    refuse_empty,
    refuse_unfit,
    require_there,
)
from keepstep.integrations.transformers.saving import Saves
from keepstep.model import Checkpoint
from keepstep.receipt import Receipt
from keepstep.run import ResumePoint
from keepstep.snapshot.ranks import Ranks

logger = messages.logger


class Session:
    """What `ManagedTrainer` knows beside the trainer's own attributes. It lives as long as the trainer."""

    def __init__(self, trainer: Any, checkpointer: Checkpointer, engine: Choice, ranks: Ranks) -> None:
        self.trainer = trainer
        self.ranks = ranks
        self.checkpointer = checkpointer
        self.active = False
        self.saves = Saves(self, engine.engine, may_change=engine.may_change)
        self._engine_text = engine.text
        self.held = HeldFiles(hold=loads_whole_files(trainer))
        self.evaluations = Evaluations(checkpointer.policy.metric)
        self.logbook = Logbook(leads=ranks.leads)
        self.fingerprint: dict[str, Any] = {}
        self._reset(None)

    def _reset(self, point: ResumePoint | None) -> None:
        self.point = point
        self.loop: LoopState | None = None
        self.ended = False
        """True when a resumed training turns out to be over: no further step may run."""
        self.epochs = Epochs(self.trainer, resuming=False)
        self.tr_loss: torch.Tensor | None = None
        self.tr_loss_to_add: float = 0.0
        self._trainer_state: dict[str, Any] = {}
        self._position: Position = "step_end"
        self._grad_norm: torch.Tensor | float | None = None
        self._learning_rate: float | None = None
        self.saved_step = -1
        self._new_best_step = -1
        self.evaluations.start()

    # -- the training as a whole -----------------------------------------------------------------------

    @contextmanager
    def training(self, resume: Any) -> Iterator[str | None]:
        """Hold the run for one `train()`; yields the path to resume from, None for a fresh start."""
        if self.ranks.leads:
            self._warn_ignored_setting(resume)
        point = self.ranks.agree(partial(self.checkpointer.begin, resume, settle=False, check=self.held.check))
        try:
            self._reset(point)
            self.fingerprint = self.ranks.agree(partial(fingerprint, self.trainer))
            if point is not None:
                self._prepare_resume(point)
            self.active = True
            with self._own_arguments():
                yield str(point.path) if point else None
            self.trainer.state.best_model_checkpoint = self.ranks.agree(self._conclude)
            self.logbook.end("finished")
        finally:
            self.active = False
            self.logbook.end("failed")
            self.held.clear()
            try:
                self.checkpointer.close()
            finally:
                self.saves.close()

    def _conclude(self) -> str | None:
        """The end of a training that nothing interrupted; returns the path of the best checkpoint. Raises DiskFull."""
        self.saves.drain()
        self.restore_best(self.trainer.state)
        messages.say_end(self.checkpointer, plain(self.trainer.args.save_strategy))
        self.checkpointer.close()
        self.checkpointer.end_well()
        return self.trainer.state.best_model_checkpoint

    def _prepare_resume(self, point: ResumePoint) -> None:
        self.ranks.agree(partial(refuse_unfit, point, self.fingerprint))
        self.ranks.together(partial(self._read, point))
        self.checkpointer.receipt = self.ranks.agree(partial(self._note_resumed, point))

    def _read(self, point: ResumePoint) -> None:
        require_there(point.path, self.ranks.rank)
        self._trainer_state = read_trainer_state(point.path)
        self.loop = LoopState.read(point.path, self.ranks.rank)

    def _note_resumed(self, point: ResumePoint) -> Receipt:
        receipt = make_receipt(point, self.fingerprint, self.trainer, self.loop)
        self.checkpointer.note_resumed(receipt)
        return receipt

    def _warn_ignored_setting(self, resume: Any) -> None:
        setting = self.trainer.args.resume_from_checkpoint
        if setting and not resume:
            logger.warning(
                "resume_from_checkpoint=%r in the config does nothing; pass it on: "
                "trainer.train(resume_from_checkpoint=%r) [E303]", setting, setting,
            )  # fmt: skip

    @contextmanager
    def _own_arguments(self) -> Iterator[None]:
        """Arguments that must not act by themselves while keepstep does: restored afterwards."""
        args = self.trainer.args
        given = {"save_total_limit": args.save_total_limit, "eval_on_start": args.eval_on_start}
        args.save_total_limit = None
        args.eval_on_start = args.eval_on_start and self.point is None
        self._given = given
        try:
            yield
        finally:
            for name, value in given.items():
                setattr(args, name, value)

    @contextmanager
    def arguments_as_given(self) -> Iterator[None]:
        """What a checkpoint records of the arguments: the user's values, and no secret."""
        args = self.trainer.args
        inside = {**self._given, "hub_token": None}
        outside = {name: getattr(args, name) for name in inside}
        for name, value in inside.items():
            setattr(args, name, value)
        try:
            yield
        finally:
            for name, value in outside.items():
                setattr(args, name, value)

    def begin(self, loader: Any) -> None:
        """At `on_train_begin`: put back what stock resuming leaves out, say where the run stands.

        Raises ResumeRefused when nothing would be trained.
        """
        self.held.clear()
        trainer, state = self.trainer, self.trainer.state
        state.compute_steps(trainer.args, state.max_steps)
        if self.point is None:
            self.ranks.agree(partial(self._say_start, state))
            self.logbook.begin(self.checkpointer.run, None, state.max_steps)
            return
        self.epochs = Epochs(trainer, resuming=True)
        over, mine, state.best_model_checkpoint = self.ranks.agree(partial(self._settle, self.point, state))
        if mine:
            self.saved_step = self.point.checkpoint.step
            self.evaluations.start(self.saved_step, self.point.checkpoint.metrics)
        self.logbook.begin(self.checkpointer.run, self.point, state.max_steps)
        if self.loop is not None:
            self._restore_loop(self.loop, loader)
        self.ranks.agree(partial(self._say_start, state, over=over))
        if self.loop is not None and self.loop.position == "step_end" and (over or is_whole(state.epoch)):
            self._finish_epoch(self.loop, self.point)
        if over or trainer.control.should_training_stop:
            self._end(self.point)

    def _settle(self, point: ResumePoint, state: Any) -> tuple[bool, bool, str | None]:
        """Whether the training is over, whether the checkpoint is of this run, and the path of the best one."""
        over = self._is_over(point, state.max_steps)
        self.checkpointer.settle()
        self.restore_best(state)
        return over, point.checkpoint.run_id == self.checkpointer.run.id, state.best_model_checkpoint

    def _is_over(self, point: ResumePoint, max_steps: int) -> bool:
        """True when the training had reached its end, or a callback had ended it, at the checkpoint."""
        finished = refuse_empty(point, self._trainer_state, self.fingerprint, max_steps)
        stopped = self.loop is not None and self.loop.stopped
        return finished or (stopped and max_steps == self._trainer_state.get("max_steps"))

    def _end(self, point: ResumePoint) -> None:
        self.ended = True
        self.trainer.control.should_training_stop = True
        self.trainer._load_rng_state(str(point.path))
        if not hasattr(self.trainer, "_tr_loss"):
            self.trainer._total_loss_scalar += self.take_loss()

    def restore_best(self, state: Any) -> None:
        """Let the trainer's state name the best checkpoint that is committed."""
        best = self.checkpointer.run.best
        state.best_model_checkpoint = str(best.path) if best else None

    def _restore_loop(self, loop: LoopState, loader: Any) -> None:
        trainer = self.trainer
        trainer._total_loss_scalar = loop.total_loss
        trainer._globalstep_last_logged = loop.last_logged_step
        trainer._initial_global_step = loop.initial_step
        if hasattr(trainer, "_tr_loss"):
            trainer._tr_loss = torch.tensor(loop.tr_loss, device=trainer.args.device)
            self.tr_loss = trainer._tr_loss
        else:
            self.tr_loss_to_add = loop.tr_loss
        trainer.model.train(loop.model_trains)
        restore_trl(trainer, loop)
        sampler = sampler_of(loader)
        if sampler is not None and loop.sampler_seed is not None:
            sampler.initial_seed = loop.sampler_seed

    def _finish_epoch(self, loop: LoopState, point: ResumePoint) -> None:
        """The save came at the epoch's last step: what follows it in an uninterrupted training follows now."""
        trainer = self.trainer
        trainer._load_rng_state(str(point.path))
        trainer.control = trainer.callback_handler.on_epoch_end(trainer.args, trainer.state, trainer.control)
        tr_loss = getattr(trainer, "_tr_loss", None)
        if tr_loss is None:
            tr_loss = torch.tensor(self.tr_loss_to_add, device=trainer.args.device)
        trainer._maybe_log_save_evaluate(
            tr_loss, loop.grad_norm, trainer.model, None, trainer.state.epoch, None, time.time(),
            learning_rate=loop.learning_rate,
        )  # fmt: skip
        self.tr_loss_to_add = 0.0 if hasattr(trainer, "_tr_loss") else tr_loss.item()
        self.epochs.end_replayed()

    def take_loss(self) -> float:
        """The restored running loss, once."""
        value, self.tr_loss_to_add = self.tr_loss_to_add, 0.0
        return value

    # -- where the loop stands ---------------------------------------------------------------------------

    def step_ends(self) -> None:
        """Called when an optimizer step is done, before it is logged, evaluated or saved."""
        self._position = "step_end"

    def epoch_ends(self) -> None:
        """Called when an epoch is done, before it is logged, evaluated or saved."""
        self._position = "epoch_end"

    def note_step(self, tr_loss: torch.Tensor, grad_norm: Any, learning_rate: float | None) -> None:
        """What the trainer hands to its logging: needed when a save falls on the last step of an epoch."""
        self.tr_loss = tr_loss
        # It stays a tensor until a save asks for the number: reading it at every step would make a GPU wait.
        self._grad_norm = grad_norm
        self._learning_rate = learning_rate

    def note_metrics(self, metrics: dict[str, Any]) -> None:
        """Metrics of an evaluation at the present step; joined to its checkpoint when that is saved already."""
        step = self.trainer.state.global_step
        found = self.evaluations.note(step, metrics)
        if self.active and self.saved_step == step:
            self.trainer.state.best_model_checkpoint = self.ranks.agree(partial(self._record, step, found))

    def _record(self, step: int, found: dict[str, float]) -> str | None:
        """Join metrics to what was saved; returns the path of the best checkpoint."""
        if found:
            self.checkpointer.record(step, found)
        if found and not self.checkpointer.busy:
            self.restore_best(self.trainer.state)
        return self.trainer.state.best_model_checkpoint

    def note_new_best(self) -> None:
        """The present step is the best so far."""
        self._new_best_step = self.trainer.state.global_step

    @property
    def is_new_best(self) -> bool:
        """True when the present step is the best so far, by its evaluation."""
        return self._new_best_step == self.trainer.state.global_step

    @property
    def is_last_step(self) -> bool:
        """True when no step follows."""
        state = self.trainer.state
        return bool(self.trainer.control.should_training_stop) or state.global_step >= state.max_steps

    @property
    def saved_this_step(self) -> bool:
        """True when the present step is committed already."""
        return self.saved_step == self.trainer.state.global_step

    def capture_loop(self) -> LoopState:
        """What a save adds to the stock files."""
        trainer = self.trainer
        counters, lists = capture_trl(trainer)
        sampler = sampler_of(trainer.callback_handler.train_dataloader)
        return LoopState(
            position=self._position,
            tr_loss=self.tr_loss.item() if self.tr_loss is not None else 0.0,
            total_loss=float(trainer._total_loss_scalar),
            last_logged_step=int(trainer._globalstep_last_logged),
            initial_step=int(getattr(trainer, "_initial_global_step", 0)),
            grad_norm=self._grad_norm.item() if isinstance(self._grad_norm, torch.Tensor) else self._grad_norm,
            learning_rate=self._learning_rate,
            epoch_start=self.epochs.start,
            order_start=self.epochs.order_to_resume(),
            sampler_seed=getattr(sampler, "initial_seed", None),
            stopped=bool(trainer.control.should_training_stop) and trainer.state.global_step < trainer.state.max_steps,
            model_trains=bool(trainer.model.training),
            loading_draws=self.epochs.loading_draws or (self.loop is not None and self.loop.loading_draws),
            counters=counters,
            metric_lists=lists,
        )

    # -- the best at the end -----------------------------------------------------------------------------

    def best_at_the_end(self) -> Checkpoint | None:
        """What `load_best_model_at_end` loads, once all is saved; None, which is said, when nothing is ranked."""
        self.saves.drain()
        best = self.best_that_holds()
        if best is None:
            logger.warning("load_best_model_at_end: no checkpoint can be ranked; the last weights stay")
        return best

    def best_that_holds(self) -> Checkpoint | None:
        """The best checkpoint whose bytes are right, its weights held; damaged ones are passed over and said."""
        run = self.checkpointer.run
        for checkpoint in run.ranking():
            verification = self.held.check_weights(checkpoint)
            if verification.ok:
                return checkpoint
            run.note_verified(verification)
            logger.warning("%s; the next best is loaded instead", verification.summary())
        return None

    def _say_start(self, state: Any, *, over: bool = False) -> None:
        resume = f"going on from step {self.point.checkpoint.step}" if self.point else "fresh start"
        if over:
            resume += ", which is the end: nothing is left to train"
        headroom, one = self.checkpointer.headroom, checkpoint_bytes(self.trainer)
        if not self.checkpointer.run.checkpoints:
            headroom.expected = one
        saves = describe_saves(self.trainer, state, self.checkpointer.policy, headroom)
        if self.saves.engine is not None and planned_saves(self.trainer.args, state):
            self.saves.engine.prepare(one)
        engine = self._engine_text if self.ranks.single else f"{self._engine_text}, {self.ranks.size} processes"
        messages.say_start(self.checkpointer, resume=resume, saves=f"{saves}; {engine}")
