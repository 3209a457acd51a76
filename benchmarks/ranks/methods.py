"""Ways to save a training of several ranks. All act on every rank; rank 0 is timed."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.saves.methods.base import PATIENCE, Method
from benchmarks.saves.methods.ours import Attached

SHARDED, FULL = "SHARDED_STATE_DICT", "FULL_STATE_DICT"


class RankMethod(Method):
    """`layout` is how the Trainer's own save would divide the state."""

    layout: ClassVar[str] = SHARDED


class NoSave(RankMethod):
    """The noise floor: nothing is done where others save."""

    name = "none"
    label = "no save (noise floor)"

    def save(self, step: int) -> None:
        """Do nothing."""


class Stock(RankMethod):
    """`Trainer._save_checkpoint` of transformers and accelerate."""

    name = "stock-sharded"
    label = "HF Trainer, SHARDED"

    def save(self, step: int) -> None:
        """The trainer's own save."""
        self.trainer_save()


class StockFull(Stock):
    """Everything is gathered on rank 0, which writes the weights twice."""

    name = "stock-full"
    label = "HF Trainer, FULL"
    layout = FULL


class Keepstep(Attached, RankMethod):
    """Copied while the next step runs, by plans that are made once."""

    name = "keepstep"
    label = "keepstep, plans remembered"
    engine = "fast"


class KeepstepPlanned(Keepstep):
    """The same where names, shapes or the mesh would change from save to save."""

    name = "keepstep-planned"
    label = "keepstep, planned each time"

    def save(self, step: int) -> None:
        """Without what was remembered."""
        self.trainer._keepstep.saves._shards.forget()
        super().save(step)


class KeepstepStock(Keepstep):
    """The stock writers write, keepstep syncs, digests and commits."""

    name = "keepstep-stock"
    label = "keepstep, stock writers"
    engine = "stock"


class DcpAsync(RankMethod):
    """`dcp.async_save` in a thread, on a gloo group of its own, with the staged copy's memory kept."""

    name = "dcp-async"
    label = "DCP async, thread, group of its own"

    def setup(self) -> None:
        """The group comes with the process group of the training, at the first save."""
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        self._group: Any = None
        self._futures: dict[int, Future[Any]] = {}
        options = StagingOptions(
            use_pinned_memory=False, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False
        )
        self._stager = DefaultStager(options)

    def save(self, step: int) -> None:
        """Stage, and begin to write; a save that is in flight is waited for, as the documentation advises."""
        import torch.distributed as dist
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.state_dict import get_state_dict

        self._group = self._group or dist.new_group(backend="gloo")
        for future in list(self._futures.values()):
            future.result(PATIENCE)
        model, optimizer = get_state_dict(self.trainer.model, self.trainer.optimizer.optimizer)
        begun: Any = dcp.async_save(
            {"model": model, "optimizer": optimizer, "scheduler": self.trainer.lr_scheduler.state_dict()},
            checkpoint_id=self.path(step),
            process_group=self._group,
            async_stager=self._stager,
        )
        self._futures[step] = getattr(begun, "upload_completion", begun)

    def wait(self, step: int) -> None:
        """The future of the save."""
        self._futures[step].result(PATIENCE)

    def close(self) -> None:
        """Let the stager go once nothing is in flight: the other ranks have no watcher."""
        for future in self._futures.values():
            future.result(PATIENCE)
        self._stager.close()


METHODS: dict[str, type[RankMethod]] = {
    method.name: method for method in (NoSave, Keepstep, KeepstepPlanned, KeepstepStock, Stock, StockFull, DcpAsync)
}


def of(name: str, trainer: Any, directory: Path) -> RankMethod:
    """The method of a name, for one rank. Raises KeyError."""
    return METHODS[name](trainer, directory)
