"""The checkpoint that a training loop calls its best by a judgement of its own, which no metric repeats."""

from __future__ import annotations

from keepstep.run import Run

JUDGED = "best by the training's own judgement"
"""Why it stays for the session, whatever the metric says."""


class Judged:
    """It is held until another one that is judged best is committed. `step` is None where nothing is judged."""

    def __init__(self) -> None:
        self.step: int | None = None
        self._generation: int | None = None

    def held(self, run: Run) -> dict[int, str]:
        """Its generation with the reason, empty where there is none."""
        if self.step is None:
            self._generation = None
            return {}
        found = [checkpoint.generation for checkpoint in run.checkpoints if checkpoint.step == self.step]
        self._generation = found[-1] if found else self._generation
        return {} if self._generation is None else {self._generation: JUDGED}
