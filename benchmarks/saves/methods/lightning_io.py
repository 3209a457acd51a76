"""Lightning's checkpoint plugins, in the same training loop as the others."""

from __future__ import annotations

from typing import Any

from benchmarks.saves.methods.base import PATIENCE, Method, load_into, state_of


class LightningSync(Method):
    """`TorchCheckpointIO`, what Lightning's Trainer uses by default."""

    name = "lightning"
    label = "Lightning, sync"
    package = "lightning"

    def setup(self) -> None:
        """The plugin."""
        self._io: Any = self._plugin()

    def _plugin(self) -> Any:
        from lightning.pytorch.plugins.io import TorchCheckpointIO

        return TorchCheckpointIO()

    def save(self, step: int) -> None:
        """Hand the state to the plugin."""
        self._io.save_checkpoint(state_of(self.trainer), self.path(step))

    def load(self, step: int) -> None:
        """`load_checkpoint` and into the objects; nothing is verified."""
        load_into(self.trainer, self._io.load_checkpoint(self.path(step), weights_only=True))


class LightningAsync(LightningSync):
    """`AsyncCheckpointIO` around it: a copy, and a thread that writes."""

    name = "lightning-async"
    label = "Lightning, async"

    def _plugin(self) -> Any:
        from lightning.pytorch.plugins.io import AsyncCheckpointIO, TorchCheckpointIO

        return AsyncCheckpointIO(TorchCheckpointIO())

    def wait(self, step: int) -> None:
        """Its executor has one thread: what comes after the save runs when the save is done."""
        self._io._executor.submit(lambda: None).result(PATIENCE)

    def close(self) -> None:
        """Ends the executor, and raises what failed in it."""
        self._io.teardown()
