"""Moonclip: deltas and zstd in Rust, asynchronous by default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.saves.methods.base import KEEP, Method, load_model, model_state


class _Weights:
    """What Moonclip is given as the model: the same weights that the other peers save."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def state_dict(self) -> dict[str, Any]:
        return model_state(self._model)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_model(self._model, state)


class Moonclip(Method):
    """`CheckpointManager` with its defaults: lossless, deltas against the save before."""

    name = "moonclip"
    label = "Moonclip 0.3.1"
    package = "moonclip"
    keeps_two = True
    verifies = True

    def setup(self) -> None:
        """One manager for the whole training."""
        from moonclip import CheckpointManager

        root = str(self.path(0))
        self._manager: Any = CheckpointManager(root, max_total_snapshots=KEEP, world_size=1, rank=0)

    def path(self, step: int) -> Path:
        """All saves share one store."""
        return self.directory / "store"

    def save(self, step: int) -> None:
        """Copy, and leave the rest to its thread."""
        trainer = self.trainer
        self._manager.save(
            step=step, model=_Weights(trainer.model), optimizer=trainer.optimizer, scheduler=trainer.lr_scheduler
        )

    def wait(self, step: int) -> None:
        """`flush` returns when the save is on the disk."""
        self._manager.flush()

    def size(self, step: int) -> int | None:
        """Its own count of the compressed bytes."""
        return next((s["total_compressed"] for s in self._manager.list_snapshots() if s["step"] == step), None)

    def load(self, step: int) -> None:
        """`resume`, which checks every tensor's hash."""
        trainer = self.trainer
        self._manager.resume(model=_Weights(trainer.model), optimizer=trainer.optimizer, scheduler=trainer.lr_scheduler)
