"""Saves of a training whose ranks hold parts of the state: all of them write at once, and rank 0 commits."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from keepstep.checkpointer import BackgroundWriter, Opened
from keepstep.errors import DiskFull, StorageError
from keepstep.integrations.transformers.saving.companions import write_companions
from keepstep.integrations.transformers.saving.deferring import Deferral, cause_of
from keepstep.integrations.transformers.saving.disk_errors import as_failure_of_disk
from keepstep.integrations.transformers.saving.imprints import local_imprint
from keepstep.integrations.transformers.saving.saves import Saves
from keepstep.integrations.transformers.saving.shard_copies import Found, ShardCopies, Way, fail, way_of
from keepstep.integrations.transformers.saving.staged_output import StagedOutput
from keepstep.integrations.transformers.saving.zero import written_by_deepspeed
from keepstep.integrations.transformers.setup.messages import logger
from keepstep.integrations.transformers.setup.portions import seal_portion
from keepstep.integrations.transformers.setup.sharding import writes_shards
from keepstep.model import Checkpoint, FileEntry
from keepstep.repository import Finish
from keepstep.snapshot.watch import Watch

T = TypeVar("T")


class TogetherSaves(Saves):
    """Saves one trainer whose stock writers write on all ranks, into one directory that all of them see.

    Each rank makes its own files durable and takes their digests in its background thread; rank 0 gathers what it needs
    for the manifest, and commits. What is to be done is decided once, and agreed. A rank that fails goes on to where
    the others wait for it, and tells them afterwards; what can't be told so is the `watch`'s.

    With an engine the shards are copied while the next step is computed, and written by that thread.
    """

    def __init__(self, *args: Any, watch: Watch, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._watch = watch
        self._sealing = BackgroundWriter()
        self._shards = ShardCopies(self._trainer, self._books)
        self._write_shards: Finish = _nothing
        self._deferral: Deferral | None = None
        self._opened: Opened | None = None
        self._output: StagedOutput | None = None
        self._began = 0.0
        self._ranks.serve(_MEMORY, super().prepare)

    def prepare(self, size: int) -> None:
        """As `Saves.prepare`, on all ranks, each for its part; rank 0 asks for it while it decides."""
        self._ranks.everyone(_MEMORY, size // self._ranks.size)

    def deferred(self) -> AbstractContextManager[None]:
        """Around a part of a stock save that waits for no other rank: what it fails with is told afterwards."""
        return nullcontext() if self._deferral is None else self._deferral.kept()

    def close(self) -> None:
        self._sealing.join()
        self._shards.forget()
        if self.engine is not None:
            self.engine.abandon()  # what was begun and handed to nobody
        super().close()

    def save(self, write_stock: Callable[[], None]) -> Checkpoint | None:
        """As `Saves.save`, on all ranks at once. Raises the second failure in a row on every rank, RankLost."""
        self.conclude()
        self.present = self.pending_push = None
        step = self._trainer.state.global_step
        what = f"the save of step {step}"
        with self._watch.over(what):
            if self._ranks.agree(self._turns_away):
                return None
            if not self._trainer.state.is_hyper_param_search:
                self._trainer.store_flos()
            self._ranks.twin()
        again = True
        while again:
            with self._watch.over(what):  # each by itself: a failure that is made good ends nobody
                again = self._try(write_stock)
        with self._watch.over(what):
            self.present, best = self._ranks.agree(self._outcome)
        if self._is_awaited:
            self.gate()
        self._ranking.saved_step = step
        self._ranking.judgement.show(best)
        return self.present

    def _try(self, write_stock: Callable[[], None]) -> bool:
        """Write the step, on all ranks at once; True where it is to be written anew."""
        ranks = self._ranks
        self._sealing.join()
        self._blocked, self._began, self._committed = 0.0, time.monotonic(), None
        place = ranks.agree(self._open)
        if place is None:
            return False
        if not place.fast:
            self._drop_engine()
        try:
            if not self._write(write_stock, place):
                return False
        except StorageError as failure:
            return ranks.agree(partial(self._throw_away, failure))
        self._submit_part(place)
        return ranks.agree(self._fails_to_settle)

    def _outcome(self) -> tuple[Checkpoint | None, str | None]:
        """The committed checkpoint where somebody waits for it, and the path of the best one."""
        return self._committed if self._is_awaited else None, self._best

    @property
    def _is_awaited(self) -> bool:
        return self._loop.is_last_step or self._somebody_reads()

    @property
    def _best(self) -> str | None:
        return self._trainer.state.best_model_checkpoint

    # -- rank 0 decides ----------------------------------------------------------------------------------

    def _open(self) -> _Place | None:
        """The directory for all stock writers; None, which is said, where there is no room."""
        step = self._trainer.state.global_step
        while True:
            try:
                self._note(self._checkpointer.failure(wait=True))
                opened = self._checkpointer.open_save(self._record.facts())
                self._opened = opened
                self._output = StagedOutput(opened.directory, self._checkpointer.path, step)
                self._output.open()
                return _Place(self._output.path, opened.directory, self.engine is not None)
            except StorageError as error:
                if error.is_full and (isinstance(error, DiskFull) or self._failed):
                    self._refuse(error)
                    return None
                self._note(error)

    def _take(self, found: Sequence[Found]) -> tuple[Way, str] | None:
        """What all have written becomes the staged checkpoint; the way of what they have recorded. None, which is said,
        where all that is nothing.
        """
        assert self._output is not None and self._opened is not None
        self._told_by_rank(self._output.close, self._opened.draft.step)
        if any(self._opened.directory.iterdir()):
            return way_of(found)
        self._checkpointer.abandon_save(self._opened)
        self._say_nothing_written(self._opened.draft.step)
        return None

    def _throw_away(self, failure: StorageError) -> bool:
        """True where the step is to be written anew. Raises the second failure in a row."""
        if self._opened is not None:
            self._checkpointer.abandon_save(self._opened)
        return self._note(failure)

    def _fails_to_settle(self) -> bool:
        """True where somebody waits for the save, and it has failed: it is to be written anew, at once."""
        if not self._is_awaited:
            return False
        if self._note(self._checkpointer.failure(wait=True)):
            return True
        self._ranking.name_best()
        return False

    # -- all ranks act -----------------------------------------------------------------------------------

    def _write(self, write_stock: Callable[[], None], place: _Place) -> bool:
        """Let all write; False where they wrote nothing. Raises on every rank what one raises: StorageError, which
        names the step and the rank, for a failure of the disk.
        """
        step = self._trainer.state.global_step
        try:
            write = partial(self._write_here, write_stock, place.path)
            found = self._ranks.together(partial(self._told_by_rank, write, step))
            agreed = self._ranks.agree(partial(self._take, found))
            if agreed is not None and self.engine is not None:
                self._told_by_rank(partial(self._begin_shards, *agreed, place.directory), step)
            return agreed is not None
        except StorageError:
            raise
        except BaseException:
            if self._opened is not None:
                self._checkpointer.abandon_save(self._opened)
            raise

    def _told_by_rank(self, act: Callable[[], T], step: int) -> T:
        """What `act` returns. Raises a StorageError that names the step and the rank in place of a disk's failure."""
        try:
            return act()
        except StorageError:
            raise
        except BaseException as error:  # what DCP raises is no Exception
            cause, rank = cause_of(error)
            found = as_failure_of_disk(cause, self._checkpointer.path)
            if found is None:
                raise
            who = self._ranks.rank if rank is None else rank
            where = f" ({found.filename})" if found.filename else ""
            raise StorageError(
                f"checkpoint step {step} could not be written by rank {who}: {found.strerror or found}{where}",
                hint="What was committed before is untouched.",
                errno=found.errno,
            ) from error

    def _write_here(self, write_stock: Callable[[], None], place: Path) -> Found:
        trainer = self._trainer
        deferral = self._deferral = Deferral()
        self.staging = place
        directory = place / f"checkpoint-{trainer.state.global_step}"
        try:
            with (
                self._arguments.as_given(place),
                self._record.written.saved_by_stock(),
                deferral.of_writers(),
                written_by_deepspeed(trainer, deferral),
                self._shards.recording(directory) if self.engine else nullcontext(),
            ):
                self._tell_failure(write_stock)
        finally:
            self.staging = self._deferral = None
        found = self._shards.found() if self.engine else Found()
        if directory.is_dir():
            with deferral.kept():
                self._add_ours(directory, place)
                if not found.calls:
                    self._add_imprint(directory)
        if deferral.failures:
            raise deferral.failures[0]
        return found

    def _tell_failure(self, act: Callable[[], None]) -> None:
        """Run something in which ranks wait for each other: what fails on this one alone, they hear."""
        try:
            act()
        except Exception as error:
            if cause_of(error)[1] is None:
                self._watch.failed(error)
            raise

    def _begin_shards(self, way: Way, reason: str, directory: Path) -> None:
        """Begin to copy what was recorded, or let the stock writers write it where that can't be."""
        assert self.engine is not None
        self._write_shards = _nothing
        if way is Way.PLANNED:
            reason = self._shards.plan(directory)
            way = Way.STOCK if reason else way
        if way in (Way.STOCK, Way.WRITTEN):
            if self._ranks.leads:
                self._go_stock(reason)
            self._drop_engine()
        if way is Way.STOCK:
            self._tell_failure(partial(self._shards.write_stock, directory))
            try:
                self._add_imprint(directory)
            except Exception as error:  # of this rank alone: told where all settle what they have written
                self._write_shards = partial(fail, error)
        elif self.engine is not None:
            self._write_shards = self._shards.begin(self.engine, self._ranks.rank)

    def _drop_engine(self) -> None:
        """Go on without the engine, as rank 0 has said."""
        if self.engine is not None:
            self.engine.abandon()
            self.engine.close()
            self.engine = None

    def _add_ours(self, directory: Path, place: Path) -> None:
        """What belongs to a checkpoint and no stock writer writes."""
        trainer, ranks = self._trainer, self._ranks
        if ranks.leads and writes_shards(trainer):
            with self._arguments.as_given(place):
                write_companions(trainer, directory)
        loop = None if ranks.leads or trainer.args.save_only_model else self._record.loop()
        if loop is not None:
            loop.write(directory, ranks.rank)

    def _add_imprint(self, directory: Path) -> None:
        """The digests of what the stock writers have written."""
        if self._trainer.args.save_only_model:
            return
        what = "the digests of what is saved"
        imprint = self._books.attempt(what, partial(local_imprint, self._trainer), None)
        if imprint is not None:
            imprint.write(directory, self._ranks.rank)

    def _submit_part(self, place: _Place) -> None:
        """Leave the rest to the background thread of each rank."""
        write_shards, self._write_shards = self._write_shards, _nothing
        if self._ranks.leads:
            assert self._opened is not None
            read = self._somebody_reads()
            on_commit = self._on_commit(self._began, read=read)
            finish = self._finish(self._opened, write_shards)
            self._blocked = time.monotonic() - self._began  # now: a commit may be told of before this returns
            self._checkpointer.submit_save(self._opened, finish, on_commit, decides=not read)
        else:
            step = self._trainer.state.global_step
            part = partial(self._finish_part, write_shards, place.directory, step)
            self._sealing.submit(part, f"this rank's part of the save of step {step}")

    def _finish(self, opened: Opened, write_shards: Finish) -> Finish:
        write_state = self._record.late_state(self._record.facts(), opened.directory.name)
        output, twin = self._output, self._ranks.twin()
        assert output is not None

        def mine(directory: Path) -> list[FileEntry]:
            # The shards first: written in place, they are what the optimizer waits for, whatever becomes of the rest.
            written = write_shards(directory)
            write_state(directory)
            output.take_links()
            return seal_portion(directory, twin.rank, written)

        def finish(directory: Path) -> Mapping[str, FileEntry]:
            with self._watch.beside(f"the commit of step {opened.draft.step}"):
                parts = twin.together(partial(self._told_by_rank, partial(mine, directory), opened.draft.step))
            return {entry.path: entry for part in parts for entry in part}

        return finish

    def _finish_part(self, write_shards: Finish, directory: Path, step: int) -> None:
        twin = self._ranks.twin()

        def mine() -> list[FileEntry]:
            return seal_portion(directory, twin.rank, write_shards(directory))

        try:
            with self._watch.beside(f"the commit of step {step}"):
                twin.together(partial(self._told_by_rank, mine, step))
        except Exception as error:  # rank 0 has heard of it, and decides
            logger.debug("rank %d: %s", twin.rank, error)


class _Place(NamedTuple):
    """Where all ranks write a save, where it lies once the stock writers are through; whether shards are copied."""

    path: Path
    directory: Path
    fast: bool


_MEMORY = "memory for copies"


def _nothing(directory: Path) -> Mapping[str, FileEntry]:
    return {}
