"""torch_checkpointing: PyTorch's own asynchronous manager, with its lock around the optimizer's step."""

from __future__ import annotations

import time
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

from benchmarks.saves.methods.base import PATIENCE, Method, load_into, state_of


class TorchCheckpointing(Method):
    """Staged beside the next forward and backward, written by a process of its own.

    Its defaults want CUDA; these are they, without pinned memory and copies that don't block.
    """

    name = "torch-checkpointing"
    label = "torch_checkpointing 0.1.1"
    package = "torch_checkpointing"

    def setup(self) -> None:
        """The manager, and nothing in flight yet."""
        from torch_checkpointing import CheckpointManager
        from torch_checkpointing.checkpoint_process import CheckpointProcessConfig
        from torch_checkpointing.config import AsyncCheckpointSaverConfig
        from torch_checkpointing.staging import CheckpointStagerConfig
        from torch_checkpointing.storage.filesystem import LocalFileSystemStorageConfig

        staging = CheckpointStagerConfig(
            use_pinned_memory=False, use_shared_memory=True, use_async_staging=True, use_non_blocking_copy=False
        )
        # A busy machine takes longer than its 30 s to start a process that imports torch.
        process = CheckpointProcessConfig(subprocess_init_timeout_secs=int(PATIENCE))
        saver = AsyncCheckpointSaverConfig(staging_config=staging, process_config=process)
        # Its direct writes are not aligned: ext4 answers EINVAL at the end of each file.
        storage = LocalFileSystemStorageConfig(use_direct_io=False)
        self._manager = CheckpointManager.Config(save=saver, storage_config=storage).build()
        self._futures: dict[int, Future[Any]] = {}
        self._locked = ExitStack()
        self._hooked: Any = None
        self._held = 0.0

    def save(self, step: int) -> None:
        """Begin to stage; a save that is in flight is waited for."""
        self._lock_the_step()
        for future in list(self._futures.values()):
            future.result(PATIENCE)
        begun = self._manager.save(str(self.path(step)), state_of(self.trainer))
        assert begun is not None
        self._futures[step] = begun

    def wait(self, step: int) -> None:
        """The future of the write."""
        self._futures[step].result(PATIENCE)

    def held(self) -> float:
        """Seconds before `optimizer.step`."""
        held, self._held = self._held, 0.0
        return held

    def close(self) -> None:
        """End its process."""
        self._manager.close()

    def load(self, step: int) -> None:
        """`load` into the model's tensors; nothing is verified."""
        state = state_of(self.trainer)
        into = {"model": state["model"], "optimizer": None, "scheduler": None}
        load_into(self.trainer, dict(self._manager.load(str(self.path(step)), into=into)))

    def _lock_the_step(self) -> None:
        if self._hooked is None:
            self._hooked = getattr(self.trainer.optimizer, "optimizer", self.trainer.optimizer)
            self._hooked.register_step_pre_hook(self._enter)
            self._hooked.register_step_post_hook(self._leave)

    def _enter(self, *given: Any) -> None:
        began = time.perf_counter()
        self._locked.enter_context(self._manager.lock())
        self._held += time.perf_counter() - began

    def _leave(self, *given: Any) -> None:
        self._locked.close()
