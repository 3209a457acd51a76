"""The mixin that gives a Trainer its checkpoint management: every hook hands over to the session."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer

from keepstep.checkpointer import Checkpointer
from keepstep.errors import SettingsError
from keepstep.integrations.transformers.callback import listening
from keepstep.integrations.transformers.managing import Yielding, unmanaged_copy
from keepstep.integrations.transformers.metrics.names import warn_of_unknown
from keepstep.integrations.transformers.resuming import callback_states
from keepstep.integrations.transformers.resuming.loading import load_weights
from keepstep.integrations.transformers.resuming.optimizer_order import in_order
from keepstep.integrations.transformers.resuming.serving import serving
from keepstep.integrations.transformers.saving.size import size_of
from keepstep.integrations.transformers.session import Session
from keepstep.integrations.transformers.setup import messages
from keepstep.integrations.transformers.setup.arguments import plain
from keepstep.integrations.transformers.setup.diagnosis import say_findings
from keepstep.integrations.transformers.setup.engine_choice import choose_engine
from keepstep.integrations.transformers.setup.options import Options
from keepstep.integrations.transformers.setup.overrides import check_names
from keepstep.integrations.transformers.setup.parallel import ranks_of
from keepstep.integrations.transformers.setup.policy import asks_for_best, choose_policy
from keepstep.integrations.transformers.setup.sharding import reads_as_written
from keepstep.integrations.transformers.setup.versions import say_versions
from keepstep.integrations.transformers.setup.zero import by_deepspeed

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object


class ManagedTrainer(_Base):
    """Checkpoint management for a Trainer: `class MyTrainer(ManagedTrainer, SFTTrainer)`.

    Takes one more argument than the trainer: `keepstep`, a dict of `attach`'s keyword arguments. The
    `Checkpointer` is `trainer.checkpointer`. `train(resume_from_checkpoint=...)` takes None or False (fresh
    start), True (newest verified, an error when there is none), "auto" (newest verified, else a fresh start),
    "latest", "best", a step number, "step:300", a tag, or a path.
    """

    _keepstep: Session
    _keepstep_options: Options
    _keepstep_cwd: str
    """Where relative paths lead to, whatever becomes of the working directory later."""

    def __init__(self, *args: Any, keepstep: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._keepstep_setup(Options.of(keepstep))

    def _keepstep_setup(self, options: Options) -> None:
        messages.make_visible()
        check_names(options.overrides, self.args)
        policy = choose_policy(self.args, keep=options.keep, metric=options.metric, mode=options.mode)
        ranks = ranks_of(self)
        if ranks.leads:
            say_versions()
            say_findings(self, policy, options, lambda trainer: size_of(trainer).whole)
        self._keepstep_options = options
        self._keepstep_cwd = os.getcwd()
        checkpointer = options.checkpointer(os.path.abspath(str(self.args.output_dir)), policy)
        engine = choose_engine(self, options.engine, options.arena)
        before: Session | None = self.__dict__.get("_keepstep")
        if before is None:
            self._keepstep_given_optimizer = type(self.optimizer).__name__ if self.optimizer is not None else None
        else:
            before.checkpointer.configure(checkpointer)
            checkpointer = before.checkpointer
        self._keepstep = Session(
            self,
            checkpointer,
            engine,
            ranks,
            on_preempt=options.on_preempt,
            save_on_exception=options.save_on_exception,
            override=options.overrides,
        )
        if ranks.leads:
            known_missing = warn_of_unknown(self, policy.metric)
            self._keepstep.ranking.evaluations.known_missing = known_missing

    def _keepstep_attach_again(self, options: Options) -> Checkpointer:
        """A cell that is run twice: the trainer stays managed once, by what was said last."""
        if self._keepstep.active:
            raise SettingsError("this trainer is training", hint="Call attach before train(), or after it.")
        if hasattr(type(self), "_keepstep_original") or options != Options():
            self._keepstep_setup(options)
        messages.logger.info("this trainer is managed already; what this attach says counts from now on")
        return self._keepstep.checkpointer

    @Yielding
    def checkpointer(self) -> Checkpointer:
        """The checkpointer that manages this trainer's run; of several processes, rank 0's: the others' only read."""
        return self._keepstep.checkpointer

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles are of the trainer as it was before; they are not managed, which is said."""
        messages.logger.info("a copy of this trainer is not managed by keepstep: call attach on it")
        return unmanaged_copy(self)

    def _keepstep_hear(self, output_dir: str) -> None:
        """Take what the arguments say now: they may have been changed since `attach`, or since the last training."""
        options = self._keepstep_options
        policy = choose_policy(self.args, keep=options.keep, metric=options.metric, mode=options.mode)
        part = os.path.relpath(output_dir, self.args.output_dir)
        trial = "" if part == "." or part.startswith("..") else part
        self._keepstep.hear(policy, os.path.abspath(os.path.join(self._keepstep_cwd, output_dir)), trial)
        self._keepstep.ranking.saves_best = asks_for_best(self.args, keep=options.keep, metric=options.metric)

    # -- training --------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        """`Trainer.train`, with the references of this class for `resume_from_checkpoint`.

        Raises RunLocked, RunInUse, CheckpointNotFound, ResumeRefused before anything is trained, and Preempted where
        it is told to stop.
        """
        trial = args[0] if args else kwargs.get("trial")
        self._keepstep_hear(super()._get_output_dir(trial))
        session = self._keepstep
        with session.stops.hearing(), listening(session), session.training(resume_from_checkpoint) as path:
            return super().train(path, *args, **kwargs)

    def _inner_training_loop(self, batch_size: int | None = None, *args: Any, **kwargs: Any) -> Any:
        """The loop; transformers 4 begins it with the batch of the checkpoint, whatever the arguments say."""
        return super()._inner_training_loop(self._keepstep.override.batch_size(batch_size), *args, **kwargs)

    def set_initial_training_values(self, args: Any, dataloader: Any, *others: Any, **kwargs: Any) -> Any:
        values = super().set_initial_training_values(args, dataloader, *others, **kwargs)
        return self._keepstep.override.samples.plan(values, dataloader)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, *args: Any, **kwargs: Any) -> Any:
        if self._keepstep.loop.ended:
            return [], None
        self._keepstep.rescue.fetches()
        fetch, samples = super().get_batch_samples, self._keepstep.override.samples
        number = samples.fetches(num_batches)
        batches = self._keepstep.loop.epochs.fetch(lambda stock: fetch(stock, number, *args, **kwargs), epoch_iterator)
        samples.fetched()
        return batches

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._keepstep.rescue.trains()
        loss = super().training_step(*args, **kwargs)
        if self._keepstep.loop.owes_loss and bool(torch.isfinite(loss)):
            # Where the running loss is a local of the loop, the first loss brings the restored sum along.
            loss = torch.tensor(self._keepstep.loop.take_loss(), device=loss.device) + loss
        return loss

    def _maybe_log_save_evaluate(self, tr_loss: Any, grad_norm: Any, *args: Any, **kwargs: Any) -> None:
        if self._keepstep.loop.ended:
            return
        self._keepstep.loop.note_step(tr_loss, grad_norm, kwargs.get("learning_rate"))
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *args, **kwargs)

    def _report_to_hp_search(self, trial: Any, step: int, metrics: dict[str, Any]) -> None:
        super()._report_to_hp_search(trial, step, metrics)
        self._keepstep.ranking.evaluated = metrics

    def _evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """`Trainer._evaluate`; a scheduler that waits for a metric is not stepped where an evaluation lacks it."""
        ranking = self._keepstep.ranking
        ranking.evaluated = None
        try:
            with self._keepstep.stops.evaluating():
                return super()._evaluate(*args, **kwargs)
            return {}
        except KeyError:
            if not ranking.lacks_schedule_metric():
                raise
            return ranking.evaluated

    def _determine_best_metric(self, metrics: dict[str, Any], trial: Any) -> bool:
        """A new best that is asked for is saved even when no save is due; a missing or NaN metric is said, no more."""
        if self._keepstep.stops.cut_short:
            return plain(self.args.save_strategy) == "best"
        judge = super()._determine_best_metric
        own = None if judge.__func__ is Trainer._determine_best_metric else partial(judge, metrics, trial)
        is_best = self._keepstep.ranking.judge(metrics, own, join=self._keepstep.active)
        # "best" saves at every evaluation: recovery needs the newest, whatever its metric is.
        return is_best or plain(self.args.save_strategy) == "best"

    # -- saving ----------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        staging = self._keepstep.saves.staging
        return super()._get_output_dir(trial) if staging is None else os.fspath(staging)

    def _save_checkpoint(self, model: Any, trial: Any, *args: Any, **kwargs: Any) -> None:
        session = self._keepstep
        if not session.active:
            super()._save_checkpoint(model, trial, *args, **kwargs)
            return
        if session.stops.saves_none:
            return
        callback_states.make_room(self)
        with session.rescue.of_save():
            session.saves.save(partial(super()._save_checkpoint, model, trial, *args, **kwargs))

    def store_flos(self) -> None:
        """Counted over all ranks, so not while one of them saves apart from the others; it is done before."""
        if self._keepstep.ranks.single or self._keepstep.saves.staging is None:
            super().store_flos()

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Uploads read the committed checkpoint, once all callbacks have heard of it; not the staging directory."""
        if self._keepstep.saves.staging is None:
            with self._keepstep.uploads.without_secrets():
                super()._push_from_checkpoint(checkpoint_folder)
        else:
            self._keepstep.saves.pending_push = checkpoint_folder

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """`Trainer.push_to_hub`: the model, its card and what belongs to it; nothing else of the run."""
        with self._keepstep.uploads.model_only():
            return super().push_to_hub(*args, **kwargs)

    def _save(self, *args: Any, **kwargs: Any) -> None:
        """What is recorded of the arguments beside a model is the user's values, and no token."""
        with self._keepstep.saves.deferred(), self._keepstep.recorded():
            super()._save(*args, **kwargs)

    def _finish_current_push(self) -> None:
        """What was kept in place only for an upload goes by policy when that is over."""
        super()._finish_current_push()
        session = self._keepstep
        kept = session.uploads.finish()
        if kept and session.active and session.ranks.leads and not session.checkpointer.busy:
            session.checkpointer.decide()

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """`Trainer.evaluate`, once what is being saved is copied: an evaluation may change the weights (averaging)."""
        self._keepstep.saves.gate()
        with self._keepstep.loop.evaluating():
            return super().evaluate(*args, **kwargs)

    # -- resuming --------------------------------------------------------------------------------------

    def _load_from_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self._keepstep.compare()
        directory = args[0] if args else kwargs["resume_from_checkpoint"]
        stock = partial(super()._load_from_checkpoint, *args, **kwargs)
        with self._keepstep.watch.over(f"the load of the weights of {Path(directory).name}"):
            with serving(self._keepstep.held), reads_as_written(self, Path(directory)):
                lacking = load_weights(self, Path(directory), stock, best=False)
            if self._keepstep.active:
                self._keepstep.ranks.together(partial(self._keepstep.comparison.check_model, Path(directory), lacking))

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        """`Trainer._prepare_for_training`; what loads with the model's wrapping (DeepSpeed) is watched over."""
        session = self._keepstep
        if not (session.active and session.point and by_deepspeed(self)):
            return super()._prepare_for_training(*args, **kwargs)
        session.compare()
        with session.watch.over(f"the load of {session.point.path.name}"):
            return super()._prepare_for_training(*args, **kwargs)

    def _load_optimizer_and_scheduler(self, *args: Any, **kwargs: Any) -> None:
        session = self._keepstep
        place = session.point.path if session.point else None
        with (
            session.watch.over("the load of the optimizer's state"),
            serving(session.held),
            session.override.of_optimizer(),
            reads_as_written(self, place),
            in_order(self, session.loop.optimizer_order),
            session.comparing_optimizer(),
        ):
            super()._load_optimizer_and_scheduler(*args, **kwargs)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        session, stock = self._keepstep, super()._load_rng_state

        def load() -> None:
            session.loop.epochs.load_random_state(partial(stock, session.place_of(checkpoint)))
            session.override.seeds()

        if not session.override.samples.postpones(load):
            load()

    def _load_callback_state(self) -> None:
        """Counters of callbacks that both the checkpoint and this training have (patience) go on; settings stay."""
        self._keepstep.override.samples.tell(self.state)
        newest = callback_states.newest(self)
        super()._load_callback_state()
        if not self.args.restore_callback_states_from_checkpoint:
            restored = self._keepstep.loop.restored
            callback_states.restore(self, restored.callbacks if restored and restored.callbacks else newest)
        self._keepstep.loop.divide_steps()

    def _load_best_model(self) -> None:
        if self._keepstep.loop.stops_here:
            return  # it is to be gone on with, and time may be short
        if not self._keepstep.active:
            super()._load_best_model()
            return
        session = self._keepstep
        session.saves.gate()
        with session.watch.over("the load of the best model"):
            if session.ranks.agree(session.calls_another_the_best):
                super()._load_best_model()
            else:
                session.best.load(session.next_best, super()._load_best_model, super()._load_from_checkpoint)
