"""The shards of one rank on the fast way: what stock savers hand to torch's DCP is recorded, planned, copied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from keepstep.engine import FastEngine
from keepstep.formats.layout import UnsupportedTensorError
from keepstep.integrations.transformers.resuming.shards import layout_of
from keepstep.integrations.transformers.saving.deferring import cause_of
from keepstep.integrations.transformers.saving.imprints import local_impression
from keepstep.integrations.transformers.setup.bookkeeping import Bookkeeping
from keepstep.integrations.transformers.setup.sharding import left_where_it_is
from keepstep.model import FileEntry
from keepstep.repository import Finish

if TYPE_CHECKING:
    from keepstep.engine import DcpSave, ShardPlans


class Way(StrEnum):
    """How the shards of one save get to the disk; the same on all ranks."""

    WRITTEN = "the stock writers have written them"
    REMEMBERED = "copied, by the plans of an earlier save"
    PLANNED = "copied, by plans that all ranks make now"
    STOCK = "the stock writers write them now"


class Found(NamedTuple):
    """What one rank has recorded in a save: how many calls, whether its plans fit, and why it can't be copied."""

    calls: int = 0
    fits: bool = False
    refused: str = ""


def way_of(ranks: Sequence[Found]) -> tuple[Way, str]:
    """The way that all ranks can go, and why it is not the fast one where it is not."""
    refused = next((one.refused for one in ranks if one.refused), "")
    if refused:
        return Way.STOCK, refused
    if not any(one.calls for one in ranks):
        return Way.WRITTEN, "nothing is saved by torch's DCP in the usual way"
    return (Way.REMEMBERED if all(one.fits for one in ranks) else Way.PLANNED), ""


class ShardCopies:
    """Copies one rank's shards. Each save is recorded, then its way is agreed upon, then it is begun."""

    def __init__(self, trainer: Any, books: Bookkeeping) -> None:
        self._trainer = trainer
        self._books = books
        self._plans = _no_plans()
        self._saves: list[DcpSave] = []
        self._root = Path()

    def forget(self) -> None:
        """What was planned belongs to a training that is over."""
        self._plans, self._saves = _no_plans(), []

    @contextmanager
    def recording(self, checkpoint: Path) -> Iterator[None]:
        """While it lasts, what stock savers would save by DCP below a directory is recorded."""
        from keepstep.engine import recording_dcp

        self._root, self._saves = checkpoint, []
        with recording_dcp(checkpoint) as saves, left_where_it_is(self._trainer):
            yield
        self._saves = saves

    def found(self) -> Found:
        """What was recorded; asks no other rank."""
        if not self._saves:
            return Found()
        try:
            return Found(len(self._saves), self._plans.fit(self._saves, self._root))
        except UnsupportedTensorError as error:
            return Found(len(self._saves), refused=str(error))

    def plan(self, directory: Path) -> str:
        """Plan, with all ranks, what was recorded for the checkpoint that is now `directory`.

        Returns why it can't be copied, empty where it can. Raises what DCP raises, on every rank.
        """
        try:
            self._plans.plan(self._moved(directory), directory)
        except BaseException as error:  # what DCP raises is no Exception
            cause, _ = cause_of(error)
            if not isinstance(cause, UnsupportedTensorError):
                raise
            return str(cause)
        return ""

    def write_stock(self, directory: Path) -> None:
        """Let the stock writers write, on all ranks at once, what was recorded."""
        for save in self._moved(directory):
            save.write()

    def begin(self, engine: FastEngine, rank: int) -> Finish:
        """Begin to copy; returns what writes the shards, and the imprint of them, once. What fails is raised there."""
        self._saves = []
        try:
            what = "the digests of what is saved"
            impression = None
            if not self._trainer.args.save_only_model:
                impression = self._books.attempt(what, partial(local_impression, self._trainer), None)
            layout = "" if impression is None else layout_of(self._trainer)
            write_shards = self._plans.begin(engine, self._trainer.model, impression)
        except Exception as error:
            return partial(fail, error)

        def write(directory: Path) -> Mapping[str, FileEntry]:
            written = write_shards(directory)
            if impression is not None:
                impression.imprint()._replace(layout=layout).write(directory, rank)
            return written

        return write

    def _moved(self, directory: Path) -> list[DcpSave]:
        return [save.moved(self._root, directory) for save in self._saves]


def _no_plans() -> ShardPlans:
    from keepstep.engine import ShardPlans

    return ShardPlans()


def fail(error: Exception, directory: Path) -> Mapping[str, FileEntry]:
    """Raises what a part of a save has failed with, where all ranks will hear of it."""
    raise error
