"""keepstep, with each of its engines."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from benchmarks.saves.methods.base import KEEP, Method, wait_for


class Attached(Method):
    """A trainer that keepstep manages, and the time that it is held at the gate."""

    keeps_two = True
    verifies = True
    loads = False
    engine: ClassVar[Any]

    def setup(self) -> None:
        """Attach, and time the gate at which the training may be held before the optimizer."""
        import keepstep

        self._held = 0.0
        keepstep.attach(self.trainer, keep=f"latest:{KEEP}", engine=self.engine)
        saves = self.trainer._keepstep.saves
        gate = saves.gate

        def timed_gate() -> None:
            began = time.perf_counter()
            gate()
            self._held += time.perf_counter() - began

        saves.gate = timed_gate

    def save(self, step: int) -> None:
        """The trainer's save, which keepstep has taken over."""
        self.trainer_save()

    def wait(self, step: int) -> None:
        """A checkpoint has its name once it is committed."""
        wait_for(self.path(step))

    def held(self) -> float:
        """Seconds at the gate."""
        held, self._held = self._held, 0.0
        return held


class KeepstepFast(Attached):
    """Copied while the next step runs, written in the background."""

    name = "keepstep"
    label = "keepstep, fast engine"
    engine = "fast"


class KeepstepStock(Attached):
    """The stock writers write, keepstep syncs, digests and commits."""

    name = "keepstep-stock"
    label = "keepstep, stock engine"
    engine = "stock"
