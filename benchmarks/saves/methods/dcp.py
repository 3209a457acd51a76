"""torch.distributed.checkpoint: synchronous, and asynchronous in a thread or a process."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.saves.methods.base import PATIENCE, Method, load_into, model_state, state_of


class _Dcp(Method):
    def setup(self) -> None:
        """A process group of one, unless this process has it already."""
        import torch.distributed as dist

        if dist.is_initialized():
            return
        rendezvous = Path(tempfile.mkdtemp(prefix="group-", dir=self.directory)) / "store"
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1)

    def close(self) -> None:
        """End the group."""
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()

    def load(self, step: int) -> None:
        """`load` into tensors of the right shapes, then into the objects; nothing is verified."""
        import torch.distributed.checkpoint as dcp

        state = self._template()
        dcp.load(state, checkpoint_id=self.path(step))
        load_into(self.trainer, state)

    def _template(self) -> dict[str, Any]:
        """DCP fills tensors that are there: those of the model, and new ones where the optimizer has none yet."""
        import torch

        optimizer = self.trainer.optimizer.state_dict()
        order = [p for group in self.trainer.optimizer.param_groups for p in group["params"]]
        wide = torch.float32
        optimizer["state"] = {
            index: {
                "step": torch.tensor(0.0),
                "exp_avg": torch.empty_like(parameter, dtype=wide),
                "exp_avg_sq": torch.empty_like(parameter, dtype=wide),
            }
            for index, parameter in enumerate(order)
        }
        scheduler = self.trainer.lr_scheduler.state_dict()
        return {"model": model_state(self.trainer.model), "optimizer": optimizer, "scheduler": scheduler}


class DcpSync(_Dcp):
    """`dcp.save`; its writer syncs its files."""

    name = "dcp"
    label = "DCP, sync"

    def save(self, step: int) -> None:
        """Write while the training waits."""
        import torch.distributed.checkpoint as dcp

        dcp.save(state_of(self.trainer), checkpoint_id=self.path(step))


class DcpAsync(_Dcp):
    """`dcp.async_save` in a thread, as it comes."""

    name = "dcp-async"
    label = "DCP async, thread"

    def setup(self) -> None:
        """Nothing is in flight yet."""
        super().setup()
        self._futures: dict[int, Future[Any]] = {}

    def save(self, step: int) -> None:
        """Stage, and begin to write; a save that is in flight is waited for, as the documentation advises."""
        import torch.distributed.checkpoint as dcp

        for future in list(self._futures.values()):
            future.result(PATIENCE)
        begun: Any = dcp.async_save(state_of(self.trainer), checkpoint_id=self.path(step), **self._options(step))
        self._futures[step] = getattr(begun, "upload_completion", begun)

    def wait(self, step: int) -> None:
        """The future of the save."""
        self._futures[step].result(PATIENCE)

    def _options(self, step: int) -> dict[str, Any]:
        return {}


class _StagerKept(DcpAsync):
    """With one stager for all saves, which keeps the memory of the staged copy."""

    shared: ClassVar[bool]

    def setup(self) -> None:
        """One stager; without an accelerator it can neither pin memory nor copy asynchronously."""
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        super().setup()
        options = StagingOptions(
            use_pinned_memory=False, use_shared_memory=self.shared, use_async_staging=False, use_non_blocking_copy=False
        )
        self._stager = DefaultStager(options)

    def _options(self, step: int) -> dict[str, Any]:
        return {"async_stager": self._stager}

    def close(self) -> None:
        """Let the stager go."""
        self._stager.close()
        super().close()


class DcpAsyncCached(_StagerKept):
    """In a thread, with the staged copy's memory kept between saves.

    The other documented way, `FileSystemWriter(cache_staged_state_dict=True)`, pins memory: it refuses on a machine
    without an accelerator.
    """

    name = "dcp-async-cached"
    label = "DCP async, thread, staging cached"
    shared = False


class DcpProcess(_StagerKept):
    """In a process, staged into shared memory that is kept between saves."""

    name = "dcp-process"
    label = "DCP async, process, shared memory kept"
    shared = True

    def _options(self, step: int) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

        return {**super()._options(step), "async_checkpointer_type": AsyncCheckpointerType.PROCESS}


class DcpStaged(DcpAsync):
    """The recipe that PyTorch documents since 2.9: the copy is made beside the next forward and backward, and what
    is left of it is waited for right before `optimizer.step`. Pinned and shared memory need an accelerator.
    """

    name = "dcp-staged"
    label = "DCP async, thread, staged beside the step"

    def setup(self) -> None:
        """One stager for all saves; it keeps the memory of the staged copy."""
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        super().setup()
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=False, use_shared_memory=False, use_async_staging=True, use_non_blocking_copy=False
            )
        )
        self._staging: Future[Any] | None = None
        self._hooked: Any = None
        self._held = 0.0

    def save(self, step: int) -> None:
        """Begin to stage."""
        import torch.distributed.checkpoint as dcp

        self._stop_before_the_step()
        for future in list(self._futures.values()):
            future.result(PATIENCE)
        begun: Any = dcp.async_save(state_of(self.trainer), checkpoint_id=self.path(step), **self._options(step))
        self._futures[step], self._staging = begun.upload_completion, begun.staging_completion

    def held(self) -> float:
        """Seconds before `optimizer.step`."""
        held, self._held = self._held, 0.0
        return held

    def close(self) -> None:
        """Let the stager go."""
        self._stager.close()
        super().close()

    def _options(self, step: int) -> dict[str, Any]:
        return {"async_stager": self._stager}

    def _stop_before_the_step(self) -> None:
        # The Trainer makes its optimizer late, and Accelerate wraps it: the hook belongs to the innermost.
        if self._hooked is None:
            self._hooked = getattr(self.trainer.optimizer, "optimizer", self.trainer.optimizer)
            self._hooked.register_step_pre_hook(self._wait_for_the_copy)

    def _wait_for_the_copy(self, *given: Any) -> None:
        if self._staging is not None:
            began = time.perf_counter()
            self._staging.result(PATIENCE)
            self._held += time.perf_counter() - began
            self._staging = None


class DcpStagedProcess(DcpStaged):
    """The same, written by a process."""

    name = "dcp-staged-process"
    label = "DCP async, process, staged beside the step"

    def _options(self, step: int) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

        return {**super()._options(step), "async_checkpointer_type": AsyncCheckpointerType.PROCESS}
