"""What a checkpoint records of its step beside the tensors: facts for the manifest, the state of trainer and loop."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from keepstep.checkpointer import Facts
from keepstep.integrations.transformers.metrics.ranking import Ranking
from keepstep.integrations.transformers.resuming.loop import Loop
from keepstep.integrations.transformers.resuming.loop_state import LoopState
from keepstep.integrations.transformers.saving.trainer_state import WrittenState
from keepstep.integrations.transformers.setup.bookkeeping import Bookkeeping
from keepstep.integrations.transformers.setup.fingerprint import written_by
from keepstep.integrations.transformers.stock import TRAINER_STATE_NAME
from keepstep.model import Kind


class StepRecord:
    """Records one trainer's present step. `written` are the copies of its state that go to the disk."""

    def __init__(self, trainer: Any, loop: Loop, ranking: Ranking, books: Bookkeeping) -> None:
        self._trainer = trainer
        self._loop = loop
        self._ranking = ranking
        self._books = books
        self._fingerprint: Mapping[str, Any] = {}
        self._writer_facts: dict[str, Any] | None = None
        self.written = WrittenState()

    def start(self, fingerprint: Mapping[str, Any]) -> None:
        """Begin a training; `fingerprint` is what a resume of its checkpoints is compared with."""
        self._fingerprint = fingerprint

    def close(self) -> None:
        """Forget what may be another in the next training."""
        self._writer_facts = None

    def facts(self) -> Facts:
        """What the manifest says of the present step."""
        state = self._trainer.state
        if self._writer_facts is None:
            self._writer_facts = self._books.attempt("the record of who saves", partial(written_by, self._trainer), {})
        return Facts(
            step=state.global_step,
            epoch=None if state.epoch is None else float(state.epoch),
            kind=Kind.WEIGHTS if self._trainer.args.save_only_model else Kind.FULL,
            metrics=self._ranking.evaluations.of(state.global_step),
            written_by=self._writer_facts,
            fingerprint=self._fingerprint,
        )

    def late_state(self, facts: Facts, name: str) -> Callable[[Path], None]:
        """What writes the trainer's state, as it is now, and that of its loop, into the checkpoint that is to be called
        `name`.
        """
        self._ranking.name_with(facts.metrics, facts.step, name)
        mine = self.written.copy(self._trainer.state)
        loop = None if self._trainer.args.save_only_model else self.loop()

        def write(directory: Path) -> None:
            mine.save_to_json(os.path.join(directory, TRAINER_STATE_NAME))
            if loop is not None:
                loop.write(directory)

        return write

    def loop(self) -> LoopState | None:
        """The state of the loop; None, which is said and makes a resume less exact, where it can't be had."""
        return self._books.attempt("the record of where the training loop stands", self._loop.capture, None)
