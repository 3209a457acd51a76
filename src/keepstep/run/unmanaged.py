"""A directory of checkpoints that others wrote, seen as a run: all that reads works on it, and nothing is written."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from msgspec import structs
from msgspec.structs import replace

from keepstep.errors import NotManaged, RunNotFound
from keepstep.model import Checkpoint
from keepstep.repository import Verification
from keepstep.retention import Metric, Plan, default_policy
from keepstep.run.events import EventLog
from keepstep.run.readers import Readers
from keepstep.run.run import Run
from keepstep.run.runfile import RunFile, holds_stock
from keepstep.stock import UNMANAGED, USUAL_METRIC, Settings, StockRepository, TrainerState, settings_of
from keepstep.stores import LocalStore, store_at

KEPT = "not managed: the script that wrote it decides"
OTHER_COURSE = "of another course than the newest: an earlier start of the training left it"


class StockRun(Run):
    """A run that keepstep does not manage: its checkpoints have no digests, and nothing is known of them but what lies
    on the disk.

    Its order is that of its courses, its metric that of its training arguments, else `eval_loss` where that was logged.
    """

    managed = False
    proof = "nothing is missing (not managed: no digests)"

    def __init__(self, store: LocalStore) -> None:
        self._stock = StockRepository(store)
        file = RunFile.for_policy(default_policy(None, None), run_id=UNMANAGED, created=datetime.now(UTC))
        super().__init__(store.root, file)
        self.repository = self._stock
        self.events, self.readers = EventLog(store, muted=True), Readers(store, muted=True)
        self.file = file.with_policy(default_policy(None, self._metric()))

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> StockRun:
        """The checkpoints in a directory as a run. Raises RunNotFound where there is none."""
        store = store_at(path if isinstance(path, Path) else Path(path))
        if not holds_stock(store):
            raise RunNotFound(f"{store.root} holds no checkpoint", hint="Give the output_dir of a training.")
        return cls(store)

    @cached_property
    def settings(self) -> Settings | None:
        """What the training's own arguments say, read without running anything; None where they can't be read."""
        for checkpoint in reversed(self._stock.listing().checkpoints):
            if checkpoint.path is not None and (found := settings_of(checkpoint.path)) is not None:
                return found
        return None

    def state_of(self, checkpoint: Checkpoint) -> TrainerState | None:
        """What the Trainer knew when it saved a checkpoint."""
        verdict = self._stock.verdict(checkpoint)
        return verdict.state if verdict else None

    @property
    def trainer_state(self) -> TrainerState | None:
        """That of the newest checkpoint that has one: its log is that of the whole course."""
        states = (self.state_of(checkpoint) for checkpoint in reversed(self._stock.listing().checkpoints))
        return next((state for state in states if state is not None), None)

    def flaws(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """What is wrong with a checkpoint, by its structure."""
        verdict = self._stock.verdict(checkpoint)
        return tuple(str(problem) for problem in verdict.problems) if verdict else ()

    def oddities(self) -> tuple[str, ...]:
        """What a person should know of its checkpoints before believing their order."""
        if self._stock.courses().sure:
            return ()
        odd = "two courses lie in it, and the times of their files don't tell which is the later one (a copy?)"
        return (f"{odd}: look at the steps before you go on from one",)

    def worded(self, plan: Plan) -> Plan:
        """Everything stays, with what is known of it."""
        decisions = tuple(structs.replace(d, reasons=self._reasons(d.checkpoint)) for d in plan.decisions)
        return replace(plan, decisions=decisions)

    def _reasons(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        if flaws := self.flaws(checkpoint):
            return tuple(f"{self.word_for(checkpoint)}: {flaw}" for flaw in flaws)
        return (KEPT,) if self._is_present(checkpoint) else (OTHER_COURSE,)

    def _is_present(self, checkpoint: Checkpoint) -> bool:
        """True for a checkpoint of the course that the newest is of."""
        return checkpoint.path is None or checkpoint.path.name in self._stock.courses().present

    def word_for(self, checkpoint: Checkpoint) -> str:
        """`torn`, `unreadable`, `of another course`, or `not managed`."""
        if self.flaws(checkpoint):
            verdict = self._stock.verdict(checkpoint)
            return "unreadable" if verdict and verdict.unread else "torn"
        return "not managed" if self._is_present(checkpoint) else "another course"

    def note_verified(self, verification: Verification) -> None:
        """Nothing is noted in a run that is not managed."""

    def point_links(self, *, without: object = (), beside: Checkpoint | None = None) -> None:
        """It has no links."""

    def must_be_managed(self) -> None:
        """Raises NotManaged: keepstep changes nothing that it did not commit."""
        raise NotManaged(
            f"{self.path} is not managed by keepstep: nothing in it is changed",
            hint=f"Make it a managed run first: keepstep adopt {self.path} --dry-run",
        )

    def begin_writing(self, what: str = "") -> None:
        """Raises NotManaged, as everything that writes."""
        self.must_be_managed()

    def settle(self) -> None:
        """Raises NotManaged, as everything that writes."""
        self.must_be_managed()

    def _metric(self) -> Metric | None:
        settings = self.settings
        if settings is not None and settings.ranked is not None:
            return settings.ranked
        state = self.trainer_state
        logged = state is not None and any(USUAL_METRIC in record for record in state.log)
        return Metric(USUAL_METRIC, "min") if logged else None
