"""One managed training as a whole: how it begins and ends, and what it resumes from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from keepstep.checkpointer import Checkpointer
from keepstep.engine import HeldFiles
from keepstep.errors import CheckpointNotFound, ResumeRefused
from keepstep.integrations.transformers.metrics.logbook import Logbook
from keepstep.integrations.transformers.metrics.ranking import Ranking
from keepstep.integrations.transformers.resuming.best_at_end import BestAtEnd
from keepstep.integrations.transformers.resuming.causes import causes_of
from keepstep.integrations.transformers.resuming.common_disk import require_common
from keepstep.integrations.transformers.resuming.comparing import Comparison
from keepstep.integrations.transformers.resuming.comparing_shards import ShardComparison
from keepstep.integrations.transformers.resuming.data_order import sampler_of
from keepstep.integrations.transformers.resuming.division import refuse_divided
from keepstep.integrations.transformers.resuming.fitness import (
    make_receipt,
    read_trainer_state,
    refuse_empty,
    refuse_incomplete,
    refuse_unfit,
    require_there,
)
from keepstep.integrations.transformers.resuming.loop import Loop
from keepstep.integrations.transformers.resuming.override import Override
from keepstep.integrations.transformers.resuming.override_words import unchanging
from keepstep.integrations.transformers.resuming.rank_parts import not_restored, processes_of
from keepstep.integrations.transformers.resuming.serving import loads_whole_files
from keepstep.integrations.transformers.resuming.sharing import SharedCheck
from keepstep.integrations.transformers.resuming.stock_words import in_stock_words
from keepstep.integrations.transformers.saving.estimate import describe_saves, planned_saves
from keepstep.integrations.transformers.saving.hub import Uploads, leave_ours_here
from keepstep.integrations.transformers.saving.on_save import OnSave
from keepstep.integrations.transformers.saving.rescue import Rescue
from keepstep.integrations.transformers.saving.saves import Saves
from keepstep.integrations.transformers.saving.size import UNKNOWN, size_of
from keepstep.integrations.transformers.saving.stops import Stops
from keepstep.integrations.transformers.saving.together import TogetherSaves
from keepstep.integrations.transformers.setup import messages
from keepstep.integrations.transformers.setup.arguments import plain
from keepstep.integrations.transformers.setup.bookkeeping import Bookkeeping
from keepstep.integrations.transformers.setup.engine_choice import Choice
from keepstep.integrations.transformers.setup.fingerprint import BASE, base_digest, fingerprint, slow_to_read
from keepstep.integrations.transformers.setup.given_arguments import GivenArguments
from keepstep.integrations.transformers.setup.options import OnPreempt
from keepstep.integrations.transformers.setup.zero import by_deepspeed
from keepstep.model import Checkpoint, State
from keepstep.retention import Policy
from keepstep.run import Exactness, Reason, Receipt, ResumePoint
from keepstep.snapshot.ranks import Ranks
from keepstep.snapshot.watch import Watch

logger = messages.logger


class Session:
    """What `ManagedTrainer` knows beside the trainer's own attributes. It lives as long as the trainer.

    `loop` keeps where the training loop stands, `ranking` the metrics, `saves` what is being saved; `point` is what
    the training that runs was resumed from.
    """

    def __init__(
        self,
        trainer: Any,
        checkpointer: Checkpointer,
        engine: Choice,
        ranks: Ranks,
        *,
        on_preempt: OnPreempt,
        save_on_exception: bool,
        override: tuple[str, ...] = (),
    ) -> None:
        self.trainer = trainer
        self.ranks = ranks
        self.checkpointer = checkpointer
        self.active = False
        self.point: ResumePoint | None = None
        self._moved: dict[str, str] = {}
        self._of_ranks: list[str] = []
        self._books = Bookkeeping()
        self.override = Override(trainer, override)
        self.loop = Loop(trainer, self.override)
        self.loop.doubt = self._doubt
        self.ranking = Ranking(trainer, checkpointer, ranks)
        self._arguments = GivenArguments(trainer)
        self.watch = Watch(ranks, tell=self._tell_end)
        self.saves = (partial(TogetherSaves, watch=self.watch) if ranks.sharded else Saves)(
            trainer,
            checkpointer,
            ranks,
            loop=self.loop,
            ranking=self.ranking,
            arguments=self._arguments,
            engine=engine,
            books=self._books,
        )
        self._on_save = OnSave(trainer, checkpointer, ranks, saves=self.saves, ranking=self.ranking, books=self._books)
        self.stops = Stops(
            trainer, checkpointer, ranks, self.loop, self.ranking,
            on_preempt=on_preempt, save=self._save_last, is_active=lambda: self.active,
        )  # fmt: skip
        self.rescue = Rescue(trainer, ranks, self.loop, self.ranking, asked=save_on_exception)
        self.uploads = Uploads(checkpointer, self._arguments)
        leave_ours_here()
        self.held = (
            SharedCheck(ranks, reads_all=by_deepspeed(trainer))
            if ranks.sharded
            else HeldFiles(hold=loads_whole_files(trainer))
        )
        self.logbook = Logbook(checkpointer, leads=ranks.leads)
        self._engine_text = engine.text
        self._fingerprint: dict[str, Any] = {}
        self._compared = False
        self._trainer_state: dict[str, Any] = {}
        self.comparison = ShardComparison(trainer, ranks) if ranks.sharded else Comparison(trainer)
        self.best = BestAtEnd(
            trainer, checkpointer, ranks, comparison=self.comparison, held=self.held,
            show=self.ranking.judgement.show, pass_over=self.ranking.pass_over,
        )  # fmt: skip

    def hear(self, policy: Policy, path: str, trial: str = "") -> None:
        """Train by this policy and into this directory from the next training on; `trial` names it in a search."""
        self.checkpointer.policy = policy
        self.checkpointer.path, self.checkpointer.trial = Path(path), trial

    def recorded(self) -> AbstractContextManager[None]:
        """While it lasts, the arguments are those that the user gave, without a token."""
        return self._arguments.recorded()

    @contextmanager
    def training(self, resume: Any) -> Iterator[str | None]:
        """Hold the run for one `train()`; yields the path to resume from, None for a fresh start."""
        if self.ranks.leads:
            self._warn_ignored_setting(resume)
        if self.ranks.sharded:
            self.watch.start()
        try:
            with self.watch.over("the search for a checkpoint to resume from"):
                point = self.ranks.agree(partial(self._begin, resume))
        except BaseException:
            self.watch.stop()
            raise
        try:
            self.active = True
            with self.watch.over("the begin of the training"):
                if self.ranks.sharded:
                    require_common(self.checkpointer.path, self.ranks)
                self._start(point, resume)
            greater = self.ranking.greater_is_better
            own = self._arguments.held_back(resuming=point is not None, greater_is_better=greater)
            with own, self._on_save.told():
                try:
                    yield str(point.path) if point else None
                except (Exception, KeyboardInterrupt) as error:
                    self.rescue.save(error, self._save_last)
                    raise
            with self.watch.over("the end of the training"):
                self.ranking.judgement.show(self.ranks.agree(self._conclude))
            self.stops.share()
            self.logbook.end("stopped" if self.loop.stops_here else "finished")
            self.share_receipt()
            self.best.end_well()
        except BaseException as error:
            self._leave(error)
            raise
        self._leave(None)

    def _leave(self, error: BaseException | None) -> None:
        """Give the run back; what fails there is shown beside `error`, never instead of it."""
        self.active = False
        self.logbook.end("failed")
        self.held.clear()
        try:
            self.checkpointer.close()
        except Exception as second:
            if error is None:
                raise
            error.add_note(f"keepstep: what was being saved failed as well: {second}")
        finally:
            self.saves.close()
            self.watch.stop()

    def _tell_end(self, text: str) -> None:
        """Before this process ends, since others are gone: what can be told of it outlives it."""
        if self.ranks.leads and self.active:
            self.checkpointer.run.events.append(
                "failed", step=self.trainer.state.global_step, error=text, retried=False
            )

    def _save_last(self) -> None:
        self.trainer._save_checkpoint(self.trainer.model, None)
        self.saves.drain()

    def _begin(self, resume: Any) -> ResumePoint | None:
        """Where to resume from, None for a fresh start; raises as `Checkpointer.begin`."""
        with in_stock_words(resume, self.trainer, CheckpointNotFound):
            return self.checkpointer.begin(resume, settle=False, check=self.held.check)

    def _start(self, point: ResumePoint | None, resume: Any) -> None:
        self.point, self._moved, self._of_ranks = point, {}, []
        self.loop.start()
        self.override.start()
        self.ranking.start()
        self.rescue.start()
        self._trainer_state = {}
        self._fingerprint, self._compared = {}, False
        self.comparison.start(point.path if point else None)
        self.best.start()
        if point is not None:
            with in_stock_words(resume, self.trainer, ResumeRefused):
                self.ranks.agree(partial(refuse_incomplete, point, self.trainer))
                self.ranks.agree(partial(refuse_divided, point, self.trainer))
            self._of_ranks = [text for part in self.ranks.together(partial(self._read, point)) for text in part]
        if self.trainer.model_init is None:
            self.compare()

    def compare(self) -> None:
        """Know what is trained, and refuse a resume from what does not fit it; once for each training.

        A trainer that makes its model itself, for each trial of a search another one, does so inside of `train`: then
        this comes right before the model is loaded, or else with the first step. Raises ResumeRefused.
        """
        if self._compared or not self.active:
            return
        self._compared = True
        what = "what a resume is compared with"
        self._fingerprint = self.ranks.agree(partial(self._books.attempt, what, partial(fingerprint, self.trainer), {}))
        self.saves.start(self._fingerprint)
        for line in slow_to_read(self._fingerprint) if self.ranks.leads else ():
            logger.info("%s", line)
        if self.point is not None:
            self.ranks.agree(partial(refuse_unfit, self.point, self._fingerprint))

    @contextmanager
    def comparing_optimizer(self) -> Iterator[None]:
        """Around the load of an optimizer's state: afterwards it is what was saved. Raises ResumeRefused."""
        path = self.point.path if self.active and self.point else None
        with self.comparison.of_optimizer(path):
            yield
        if path is not None:
            if by_deepspeed(self.trainer):  # it has loaded the model by itself, and with it all else
                self.ranks.together(partial(self.comparison.check_model, path, []))
            self.ranks.together(partial(self.comparison.judge_optimizer, path))

    def share_receipt(self) -> None:
        """Let every rank have what rank 0 knows of the resume by now: it alone compares what is logged."""
        if self.point is not None and not self.ranks.single:
            self.checkpointer.receipt = self.ranks.agree(lambda: self.checkpointer.receipt)

    def _conclude(self) -> str | None:
        """The end of a training, or its stop; returns the path of the best checkpoint. Raises DiskFull."""
        self.saves.drain()
        if self.loop.stops_here:
            self.ranking.name_best()
            self.stops.conclude()
            self.checkpointer.close()
            return self.trainer.state.best_model_checkpoint
        self.ranking.name_best_at_the_end()
        messages.say_end(self.checkpointer, plain(self.trainer.args.save_strategy))
        self.checkpointer.close()
        self.checkpointer.end_well()
        return self.trainer.state.best_model_checkpoint

    def _read(self, point: ResumePoint) -> list[str]:
        """Read what this rank goes on from; returns what it can't go on with, in sentences."""
        require_there(point.path, self.ranks.rank)
        self._trainer_state = read_trainer_state(point.path)
        self.loop.read(point.path, self.ranks.rank)
        place = self.loop.restored.place if self.loop.restored is not None else None
        before, processes = point.checkpoint.fingerprint, processes_of(point.path)
        self.override.read(point.path, self._trainer_state, place, before, processes)
        return not_restored(point.path, self.ranks.rank, self.loop.restored, self.ranks.size)

    def _note_resumed(self, point: ResumePoint) -> Receipt:
        if BASE in self._fingerprint.get("model", {}) and not self.ranks.sharded:
            # What does not train may have come from the checkpoint as well.
            self._fingerprint["model"][BASE] = base_digest(self.trainer.model)
        restored = self.loop.restored
        receipt = make_receipt(
            point, self._fingerprint, self.trainer, restored, self.comparison,
            override=self.override, of_ranks=self._of_ranks,
        )  # fmt: skip
        if line := unchanging(self.override):
            logger.info("%s", line)
        return self.checkpointer.note_resumed(receipt)

    def _doubt(self, text: str) -> None:
        """What was resumed turned out to be less exact than its receipt said."""
        if not self.ranks.leads or self.checkpointer.receipt is None:
            return
        reasons = (*self.checkpointer.receipt.reasons, Reason(Exactness.APPROXIMATE, text))
        self.checkpointer.receipt = replace(self.checkpointer.receipt, reasons=reasons)
        logger.warning("the resume is approximate: %s", text)
        self.checkpointer.run.events.append("course", **self.checkpointer.receipt.to_json())

    def _warn_ignored_setting(self, resume: Any) -> None:
        setting = self.trainer.args.resume_from_checkpoint
        if setting and not resume:
            logger.warning(
                "resume_from_checkpoint=%r in the config does nothing; pass it on: "
                "trainer.train(resume_from_checkpoint=%r) [E303]", setting, setting,
            )  # fmt: skip

    def begin(self, loader: Any) -> None:
        """At `on_train_begin`: put back what stock resuming leaves out, say where the run stands.

        Raises ResumeRefused when nothing would be trained.
        """
        self.compare()
        self.held.clear()
        self.stops.say()
        nothing: list[str] = []
        lost = self._books.attempt("the note of what moves beside the model", self.loop.begin, nothing)
        trainer, state = self.trainer, self.trainer.state
        state.compute_steps(trainer.args, state.max_steps)
        if self.point is None:
            self.ranks.agree(partial(self._say_start, state))
            self.logbook.begin(state.max_steps, partial(causes_of, trainer, self.loop.restored))
            return
        self.ranks.together(self.comparison.judge_unsaved)
        self.comparison.share()
        self.comparison.note_lost(lost)
        checkpoint = self.point.checkpoint
        if checkpoint.state is not State.COMMITTED:
            self.ranks.together(lambda: None)  # it will move: all have loaded from it
        self.ranking.judgement.start()
        over, mine, best, path = self.ranks.agree(partial(self._settle, self.point, state))
        self.ranking.judgement.show(best)
        self._move(self.point, path)
        seed = self.loop.restored.sampler_seed if self.loop.restored is not None else None
        self.override.hear_sampler(sampler_of(loader), seed)
        self.checkpointer.receipt = self.ranks.agree(partial(self._note_resumed, self.point))
        if mine:
            self.ranking.start(checkpoint.step, checkpoint.metrics)
        self.logbook.begin(state.max_steps, partial(causes_of, trainer, self.loop.restored))
        self.loop.resume(loader)
        self.ranks.agree(partial(self._say_start, state, over=over))
        self.loop.replay_epoch_end(self.point.path, over=over)
        if over or trainer.control.should_training_stop:
            self.loop.end(self.point.path)

    def _settle(self, point: ResumePoint, state: Any) -> tuple[bool, bool, str | None, Path | None]:
        """Whether the training is over, whether the checkpoint is of this run, the path of the best one, and where the
        resume point lies from now on, where it is the run's own.
        """
        over = self._is_over(point, state.max_steps)
        path = self.checkpointer.settle()
        self.ranking.name_best()
        return over, point.checkpoint.run_id == self.checkpointer.run.id, state.best_model_checkpoint, path

    def _move(self, point: ResumePoint, path: Path | None) -> None:
        """A resume point that lay aside has come back: what is loaded later is loaded from its place now."""
        if path is not None and point.checkpoint.state is not State.COMMITTED:
            self._moved[str(point.path)] = str(path)
            self.point = point.moved_to(path)
            self.loop.moved_to(path)

    def place_of(self, directory: str | None) -> str | None:
        """Where a resume point lies by now."""
        return directory if directory is None else self._moved.get(directory, directory)

    def _is_over(self, point: ResumePoint, max_steps: int) -> bool:
        """True when the training had reached its end, or a callback had ended it, at the checkpoint."""
        finished = refuse_empty(point, self._trainer_state, self._fingerprint, max_steps)
        stopped = self.loop.restored is not None and self.loop.restored.stopped
        return finished or (stopped and max_steps == self._trainer_state.get("max_steps"))

    def calls_another_the_best(self) -> bool:
        """True where somebody calls a directory of his own the best of the training, once all is saved."""
        self.saves.drain()
        return self.ranking.best_elsewhere is not None

    def next_best(self) -> Checkpoint | None:
        """What `load_best_model_at_end` loads, once all is saved, but for what did not come back; None, which is said,
        when nothing is ranked.
        """
        self.saves.drain()
        return self.ranking.best_that_holds(self.held)

    def _say_start(self, state: Any, *, over: bool = False) -> None:
        resume = f"going on from step {self.point.checkpoint.step}" if self.point else "fresh start"
        if over:
            resume += ", which is the end: nothing is left to train"
        headroom = self.checkpointer.headroom
        one = self._books.attempt("the estimate of a checkpoint's size", partial(size_of, self.trainer), UNKNOWN)
        if not self.checkpointer.run.checkpoints:
            headroom.expected = one.whole
        scheduled, every = planned_saves(self.trainer.args, state), str(self.checkpointer.cadence)
        self.checkpointer.require_room(one.at_least, 0 if over else max(scheduled, int(bool(every))))
        describe = partial(
            describe_saves, self.trainer, state, self.checkpointer.policy, headroom, weights=one.weights, every=every
        )
        saves = self._books.attempt("the estimate of what will be saved", describe, "saves as scheduled")
        if scheduled:
            self.saves.prepare(one.whole)
        engine = self._engine_text if self.ranks.single else f"{self._engine_text}, {self.ranks.size} processes"
        messages.say_start(self.checkpointer, resume=resume, saves=f"{saves}; {engine}")
