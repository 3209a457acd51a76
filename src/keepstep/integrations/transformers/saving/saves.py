"""How the saves of one managed training are carried out: staged now, written and committed in the background."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from transformers import TrainerState

from keepstep.checkpointer import Checkpointer, Facts, OnCommit, as_storage_error
from keepstep.engine import FastEngine, Recorded, noting, recording
from keepstep.errors import DiskFull, StorageError
from keepstep.formats.layout import UnsupportedTensorError
from keepstep.integrations.transformers.metrics.ranking import Ranking
from keepstep.integrations.transformers.resuming.loop import Loop
from keepstep.integrations.transformers.saving.disk_errors import as_os_error
from keepstep.integrations.transformers.saving.extra_file import ExtraFile
from keepstep.integrations.transformers.saving.garbage import sought_later
from keepstep.integrations.transformers.saving.imprints import impression_of
from keepstep.integrations.transformers.saving.staged_output import StagedOutput
from keepstep.integrations.transformers.saving.step_record import StepRecord
from keepstep.integrations.transformers.saving.tokenizer_files import TokenizerFiles
from keepstep.integrations.transformers.setup import messages
from keepstep.integrations.transformers.setup.arguments import plain
from keepstep.integrations.transformers.setup.bookkeeping import Bookkeeping
from keepstep.integrations.transformers.setup.bystanders import readers
from keepstep.integrations.transformers.setup.engine_choice import Choice
from keepstep.integrations.transformers.setup.given_arguments import GivenArguments
from keepstep.integrations.transformers.setup.own_code import SAVES, own
from keepstep.integrations.transformers.stock import SAVE_FILE, TORCH_FILES
from keepstep.model import FULL_PREFIX, Checkpoint, FileEntry
from keepstep.repository import Finish
from keepstep.snapshot.ranks import Ranks
from keepstep.snapshot.staging import StateChangedError

logger = messages.logger
Files = Mapping[str, bytes]
"""Contents of files, by path relative to the checkpoint."""


class NothingWrittenError(Exception):
    """The trainer's own save code put nothing where a checkpoint is looked for."""


class Saves:
    """Saves one trainer. Without an engine, the stock writers write while the training waits."""

    def __init__(
        self,
        trainer: Any,
        checkpointer: Checkpointer,
        ranks: Ranks,
        *,
        loop: Loop,
        ranking: Ranking,
        arguments: GivenArguments,
        engine: Choice,
        books: Bookkeeping,
    ) -> None:
        self._trainer = trainer
        self._checkpointer = checkpointer
        self._ranks = ranks
        self._loop = loop
        self._ranking = ranking
        self.engine: FastEngine | None = engine.engine
        self._may_change = engine.may_change
        self._arguments = arguments
        self._books = books
        self._tokenizer_files = TokenizerFiles()
        self._record = StepRecord(trainer, loop, ranking, books)
        self._extra = ExtraFile(
            trainer, partial(books.attempt, "the search for what moves beside the model", loop.beside, {})
        )
        self._failed = False
        self._said_nothing_written = False
        self._blocked = 0.0
        self._committed: Checkpoint | None = None
        self._to_conclude: Callable[[Checkpoint], None] | None = None
        self.staging: Path | None = None
        """Where stock writers write while a save is under way; None otherwise."""
        self.pending_push: str | None = None
        self.present: Checkpoint | None = None
        """The checkpoint of the present step, where it is committed before its callbacks hear of it."""

    def start(self, fingerprint: Mapping[str, Any]) -> None:
        """Begin a training; `fingerprint` is what a resume of its checkpoints is compared with."""
        self._record.start(fingerprint)
        self._extra.start()

    def prepare(self, size: int) -> None:
        """Take memory for the copies of a state of about `size` bytes, while the first steps run."""
        if self.engine is not None:
            self.engine.prepare(size)

    def deferred(self) -> AbstractContextManager[None]:
        """Around a part of a stock save that waits for no other process."""
        return nullcontext()

    def close(self) -> None:
        """End the engine's threads; forget what may be another in the next training."""
        self._record.close()
        if self.engine is not None:
            self.engine.close()

    def save(self, write_stock: Callable[[], None]) -> Checkpoint | None:
        """Save the present step: the committed checkpoint, or None when it is on its way to the disk, or turned away.

        Rank 0 decides and writes; each other rank gives it the files that are its own. A save is waited for when
        somebody reads the checkpoint as soon as he hears of it, and at the last step: no later one could make it good.
        A failure of the disk throws the attempt away and writes anew once, now or with the state of the next step.
        Raises the second in a row.
        """
        state, ranks = self._trainer.state, self._ranks
        self.conclude()
        self.present = self.pending_push = None
        if ranks.agree(self._turns_away):
            return None
        if not (ranks.single or ranks.alone or state.is_hyper_param_search):
            self._trainer.store_flos()
        parts = ranks.together(partial(self._part, write_stock))
        added = {path: data for part in parts for path, data in part.items()}
        self.present, best = ranks.agree(partial(self._save, write_stock, added))
        self._ranking.saved_step = state.global_step
        self._ranking.judgement.show(best)
        return self.present

    def _turns_away(self) -> bool:
        """True, which is said, when the save that is due is not to begin now."""
        step = self._trainer.state.global_step
        must = self._loop.is_last_step or self._ranking.is_new_best
        away = self._checkpointer.turns_away(step, must=must)
        if away:
            messages.say_turned_away(self._checkpointer, step)
        return away

    def _part(self, write_stock: Callable[[], None]) -> Files:
        """What this rank adds to the checkpoint: whatever its stock writers write, and its loop's state."""
        if self._ranks.leads:
            return {}
        step = self._trainer.state.global_step
        with as_storage_error(step), TemporaryDirectory(prefix="keepstep-") as scratch:
            directory = Path(scratch) / f"{FULL_PREFIX}{step}"
            directory.mkdir()
            with self._record.written.saved_by_stock():
                self._write_stock(write_stock, StagedOutput(directory, self._checkpointer.path, step))
            if not self._trainer.args.save_only_model:
                loop = self._record.loop()
                if loop is not None:
                    loop.write(directory, self._ranks.rank)
            files = [path for path in directory.rglob("*") if path.is_file()]
            return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}

    def _save(self, write_stock: Callable[[], None], added: Files) -> tuple[Checkpoint | None, str | None]:
        """Save in the process that writes; returns the committed checkpoint, and the path of the best one."""
        try:
            self._note(self._checkpointer.failure(wait=True))
            committed = self._save_now(write_stock, added)
        except StorageError as error:
            if not error.is_full:
                raise
            self._refuse(error)
            committed = None
        return committed, self._trainer.state.best_model_checkpoint

    def _save_now(self, write_stock: Callable[[], None], added: Files) -> Checkpoint | None:
        read = self._somebody_reads()
        self._begin(write_stock, added, read=read)
        if not (self._loop.is_last_step or read):
            return None
        if self._note(self._checkpointer.failure(wait=True)):
            self._begin(write_stock, added, read=read)
            self._checkpointer.wait()
        self._ranking.name_best()
        return self._committed

    def _refuse(self, error: StorageError) -> None:
        """Go on without the present step: there is no room for it."""
        self._failed = False
        self._checkpointer.refuse(self._trainer.state.global_step, error)

    def _somebody_reads(self) -> bool:
        """True when the checkpoint is looked at as soon as the trainer says that it is saved."""
        return bool(readers(self._trainer.callback_handler.callbacks)) or bool(self._trainer.args.push_to_hub)

    def conclude(self) -> str | None:
        """What is left of a save once those who read it have done so: the policy decides, and it is said.

        Returns the path of the best checkpoint.
        """
        say, self._to_conclude = self._to_conclude, None
        if say is not None and self._committed is not None:
            self._books.attempt("the policy after a save", self._checkpointer.decide, None)
            say(self.present or self._committed)
            self._ranking.name_best()
        return self._trainer.state.best_model_checkpoint

    def _begin(self, write_stock: Callable[[], None], added: Files, *, read: bool) -> None:
        """Stage the present step and leave the rest to the background, what others are to see first to `conclude`."""
        facts = self._record.facts()
        self._blocked, began, self._committed = 0.0, time.monotonic(), None

        on_commit = self._on_commit(began, read=read)

        def stage(directory: Path) -> Finish:
            with sought_later() if self.engine else nullcontext():  # stock writers may take minutes
                return self._stage(facts, write_stock, added, directory)

        try:
            self._submit(partial(self._checkpointer.save_in_background, facts, stage, on_commit, decides=not read))
        except NothingWrittenError:
            self._say_nothing_written(facts.step)
        self._blocked += time.monotonic() - began

    def _on_commit(self, began: float, *, read: bool) -> OnCommit:
        """What hears of the commit of a save that `began` then; `read` by somebody, it is concluded later."""

        def on_commit(checkpoint: Checkpoint, durable_at: float) -> None:
            def say(checkpoint: Checkpoint) -> None:
                self._books.attempt("the note of a save", partial(self._say, checkpoint, durable_at - began), None)

            self._failed = False
            self._committed = checkpoint
            if read:
                self._to_conclude = say
            else:
                say(checkpoint)

        return on_commit

    def _submit(self, save: Callable[[], None]) -> None:
        """Begin a save; what fails at once is made good at once. Raises the second failure."""
        try:
            save()
        except (StorageError, UnsupportedTensorError) as error:
            if isinstance(error, DiskFull) or (isinstance(error, StorageError) and error.is_full and self._failed):
                raise
            self._note(error)
            save()

    def _say_nothing_written(self, step: int) -> None:
        if not self._said_nothing_written:
            writers = " and ".join(own(self._trainer, SAVES)) or "the trainer"
            logger.warning(
                "%s wrote no file for step %d: there is nothing to commit, nor to resume from", writers, step
            )
        self._said_nothing_written = True

    def _stage(self, facts: Facts, write_stock: Callable[[], None], added: Files, directory: Path) -> Finish:
        """Write what must be written now; returns what writes the rest."""
        engine, recorded = self.engine, Recorded()
        output = StagedOutput(directory, self._checkpointer.path, facts.step)
        with ExitStack() as replaced:
            replaced.enter_context(self._record.written.saved_by_stock())
            if engine:
                recorded = replaced.enter_context(recording(output.checkpoint, SAVE_FILE, TORCH_FILES))
                # It names the best checkpoint, which the stock writer takes for another one: it is written afterwards.
                replaced.enter_context(patch.object(TrainerState, "save_to_json", lambda state, path: None))
                replaced.enter_context(self._tokenizer_files.reused(self._trainer, recorded.small))
            written = replaced.enter_context(noting(SAVE_FILE))
            with self._on_the_fast_way(facts.step):
                self._write_stock(write_stock, output)
        recorded.move(output.checkpoint, directory)
        if not any(directory.iterdir()) and recorded.is_empty:
            raise NothingWrittenError
        impression = self._books.attempt("the digests of what is saved", partial(impression_of, self._trainer), None)
        unwritten = self._extra.add(written, directory, recorded if engine else None)
        if impression is not None:
            impression.unwritten = unwritten
        recorded.small |= {directory / path: data for path, data in added.items() if not (directory / path).exists()}
        write_state = self._record.late_state(facts, directory.name)
        # Last: what fails before it leaves no snapshot that nobody would write.
        write_tensors = engine.snapshot(recorded, directory, self._trainer.model, impression) if engine else None
        if impression is not None and not engine:
            impression.take_all(written.holds)

        def finish(directory: Path) -> Mapping[str, FileEntry]:
            # The tensors first: written in place, they are what the optimizer waits for, whatever becomes of the rest.
            written = write_tensors(directory) if write_tensors else {}
            recorded.write_small()
            write_state(directory)
            if impression is not None:
                impression.imprint().write(directory)
            output.take_links()
            return written

        return finish

    @contextmanager
    def _on_the_fast_way(self, step: int) -> Iterator[None]:
        """What fails because a tensor file is only recorded is none of the user's faults: the stock writers do it."""
        try:
            yield
        except Exception as error:
            if self.engine is None or (isinstance(error, OSError) and not _misses_a_file(error)):
                raise
            text = f"the save of step {step} does not go with the fast engine ({type(error).__name__}: {error})"
            raise UnsupportedTensorError(text) from error

    def _write_stock(self, write_stock: Callable[[], None], output: StagedOutput) -> None:
        """Let the stock writers, and the user's own code around them, write into a staged output."""
        with output:
            self.staging = output.path
            try:
                with as_os_error(output.path), self._arguments.as_given(output.path), self._ranks.apart():
                    write_stock()
            finally:
                self.staging = None

    def _say(self, checkpoint: Checkpoint, durable: float) -> None:
        engine = "fast" if self.engine else "stock"
        self._checkpointer.note_kept(checkpoint, blocked=self._blocked, durable=durable, engine=engine)
        messages.say_commit(self._checkpointer, checkpoint, self._blocked, durable)

    @property
    def copying(self) -> bool:
        """True while the live state may still be read."""
        return self.engine is not None and self.engine.copying

    def gate(self) -> None:
        """Before anything changes the state: what is being saved must be copied. Time spent here counts as blocked."""
        if self.engine is not None and self.engine.copying:
            began = time.monotonic()
            self.engine.gate()
            self._blocked += time.monotonic() - began

    def drain(self) -> None:
        """Return when every save is durable, or refused for lack of room. Raises what one failed with otherwise."""
        self.gate()
        error = self._checkpointer.failure(wait=True)
        self.conclude()
        if isinstance(error, StorageError) and error.is_full:
            self._refuse(error)
        elif error is not None:
            raise error

    def asks_for_save(self, *, logs: bool) -> bool:
        """True when the present step is to be saved in place of one that failed, or was put off.

        A second failure in a row is raised. Several processes agree at the steps that are logged (`logs`), when they
        wait for each other anyway, and at the last.
        """
        if not (self._ranks.single or logs or self._loop.is_last_step):
            return False
        return self._ranks.agree(self._makes_up)

    def _makes_up(self) -> bool:
        failed = self._note(self._checkpointer.failure())
        owed = self._checkpointer.owes and (self._loop.is_last_step or not self._checkpointer.busy)
        return failed or owed or self._checkpointer.due

    def is_missed(self) -> bool:
        """True when the training has all its steps with the present one, and it is not saved yet."""
        args, state = self._trainer.args, self._trainer.state
        by_step = plain(args.save_strategy) == "steps" or self._checkpointer.cadence.every is not None
        ends = state.global_step >= state.max_steps
        return by_step and ends and self._ranking.saved_step != state.global_step

    def _note(self, error: BaseException | None) -> bool:
        """True when there is an error to be made good by a save of the present step; the second in a row is raised.

        The second for lack of room is none to die of: it is refused.
        """
        if error is None:
            return False
        if isinstance(error, StorageError) and error.is_full:
            self._checkpointer.headroom.strike(error)
            if self._failed:
                self._refuse(error)
                return False
        changed = isinstance(error, StateChangedError)
        if isinstance(error, UnsupportedTensorError) or (changed and self._may_change):
            self._go_stock(str(error))
        elif changed or self._failed:
            raise error
        self._failed = True
        step = self._trainer.state.global_step
        self._checkpointer.run.events.append("failed", step=step, error=str(error), retried=True)
        logger.warning("%s\n  Writing it anew, with the state of step %d.", error, step)
        return True

    def _go_stock(self, reason: str) -> None:
        logger.warning("the stock writers save from here on: %s", reason)
        if self.engine is not None:
            self.engine.abandon()
            self.engine.close()
            self.engine = None


def _misses_a_file(error: OSError) -> bool:
    """True for what reading, listing or moving a file raises that is recorded, but not written yet."""
    missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
    return missing or error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY)
