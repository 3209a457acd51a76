"""holdfast, with each of its engines."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from benchmarks.saves.methods.base import KEEP, Method, wait_for


class _Holdfast(Method):
    keeps_two = True
    verifies = True
    loads = False
    engine: ClassVar[Any]

    def setup(self) -> None:
        """Attach, and time the gate at which the training may be held before the optimizer."""
        import holdfast

        self._held = 0.0
        holdfast.attach(self.trainer, keep=f"latest:{KEEP}", engine=self.engine)
        saves = self.trainer._holdfast.saves
        gate = saves.gate

        def timed_gate() -> None:
            began = time.perf_counter()
            gate()
            self._held += time.perf_counter() - began

        saves.gate = timed_gate

    def save(self, step: int) -> None:
        """The trainer's save, which holdfast has taken over."""
        self.trainer_save()

    def wait(self, step: int) -> None:
        """A checkpoint has its name once it is committed."""
        wait_for(self.path(step))

    def held(self) -> float:
        """Seconds at the gate."""
        held, self._held = self._held, 0.0
        return held


class HoldfastFast(_Holdfast):
    """Copied while the next step runs, written in the background."""

    name = "holdfast"
    label = "holdfast, fast engine"
    engine = "fast"


class HoldfastStock(_Holdfast):
    """The stock writers write, holdfast syncs, digests and commits."""

    name = "holdfast-stock"
    label = "holdfast, stock engine"
    engine = "stock"
