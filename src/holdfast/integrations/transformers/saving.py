"""How the saves of one managed training are carried out: by the stock writers, or by the fast engine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from holdfast.checkpointer import Checkpointer, Facts
from holdfast.formats.layout import UnsupportedTensorError
from holdfast.inflight import Finish
from holdfast.integrations.transformers import messages
from holdfast.integrations.transformers.disk_errors import as_os_error
from holdfast.integrations.transformers.engine import FastEngine
from holdfast.integrations.transformers.fingerprint import written_by
from holdfast.integrations.transformers.recording import recording
from holdfast.integrations.transformers.resuming import TRAINER_STATE_NAME
from holdfast.model import FULL_PREFIX, Checkpoint, Kind
from holdfast.snapshot.arena import ArenaTooSmallError

if TYPE_CHECKING:
    from holdfast.integrations.transformers.session import Session

logger = messages.logger


class Saves:
    """Saves the trainer of a session. Without an engine, the stock writers write while the training waits."""

    def __init__(self, session: Session, engine: FastEngine | None) -> None:
        self._session = session
        self._trainer = session.trainer
        self.engine = engine
        self._failed = False
        self.staging: Path | None = None
        """Where stock writers write while a save is under way; None otherwise."""
        self.pending_push: str | None = None

    @property
    def _checkpointer(self) -> Checkpointer:
        return self._session.checkpointer

    def close(self) -> None:
        """End the engine's threads."""
        if self.engine is not None:
            self.engine.close()

    def save(self, write_stock: Callable[[], None]) -> Checkpoint | None:
        """Save the present step: the committed checkpoint, or None when it is on its way to the disk."""
        facts = self._facts()
        began = time.monotonic()
        checkpoint = None
        if self.engine is None or not self._save_fast(self.engine, facts, write_stock, began):
            checkpoint = self._checkpointer.save(facts, partial(self._write, facts, write_stock))
            self._committed(checkpoint, time.monotonic() - began)
            self._session.restore_best(self._trainer.state)
        self._session.saved_step = facts.step
        return checkpoint

    def _save_fast(self, engine: FastEngine, facts: Facts, write_stock: Callable[[], None], began: float) -> bool:
        """Stage the state and let it be written in the background; False when only the stock writers can."""
        blocked = 0.0
        self._note(self._checkpointer.failure(wait=True))

        def stage(directory: Path) -> Finish:
            nonlocal blocked
            with recording() as recorded:
                self._write(facts, write_stock, directory)
            recorded.move(directory.parent / f"{FULL_PREFIX}{facts.step}", directory)
            finish = engine.snapshot(recorded, directory, self._trainer.model)
            blocked = time.monotonic() - began
            return finish

        def on_commit(checkpoint: Checkpoint) -> None:
            self._failed = False
            self._committed(checkpoint, blocked, time.monotonic() - began)

        try:
            self._checkpointer.save_in_background(facts, stage, on_commit)
        except (UnsupportedTensorError, ArenaTooSmallError) as error:
            logger.warning("the stock writers save from here on: %s", error)
            engine.close()
            self.engine = None
            return False
        return True

    def _facts(self) -> Facts:
        state = self._trainer.state
        return Facts(
            step=state.global_step,
            epoch=None if state.epoch is None else float(state.epoch),
            kind=Kind.WEIGHTS if self._trainer.args.save_only_model else Kind.FULL,
            metrics=self._session.evaluations.of(state.global_step),
            written_by=written_by(self._trainer),
            fingerprint=self._session.fingerprint,
        )

    def _committed(self, checkpoint: Checkpoint, blocked: float, durable: float | None = None) -> None:
        plan = self._checkpointer.plan
        self._checkpointer.run.events.append(
            "kept",
            generation=checkpoint.generation,
            step=checkpoint.step,
            reasons=list(plan.reasons(checkpoint.generation)) if plan else [],
            blocked_seconds=blocked,
            durable_seconds=blocked if durable is None else durable,
        )
        messages.say_commit(self._checkpointer, checkpoint, blocked, durable)

    def gate(self) -> None:
        """Before the optimizer changes the state: what is being saved must be copied."""
        if self.engine is not None:
            self.engine.gate()

    def drain(self) -> None:
        """Return when every save is durable. Raises what one failed with."""
        self.gate()
        self._checkpointer.wait()

    def save_anew(self) -> bool:
        """True when the last save in the background failed, so that the present step is to be saved in its place.

        A second failure in a row is raised.
        """
        return self._note(self._checkpointer.failure())

    def _note(self, error: BaseException | None) -> bool:
        if error is None:
            return False
        if self._failed:
            raise error
        self._failed = True
        step = self._trainer.state.global_step
        self._checkpointer.run.events.append("failed", step=step, error=str(error), retried=True)
        logger.warning("%s\n  Step %d is saved in its place.", error, step)
        return True

    def _write(self, facts: Facts, write_stock: Callable[[], None], directory: Path) -> None:
        state = self._trainer.state
        stock = directory.parent / f"{FULL_PREFIX}{state.global_step}"
        self.staging = directory.parent
        try:
            with as_os_error(directory.parent), self._session.arguments_as_given():
                write_stock()
        finally:
            self.staging = None
        if stock != directory:
            directory.rmdir()
            stock.rename(directory)
        run, evaluations = self._checkpointer.run, self._session.evaluations
        state.best_model_checkpoint = evaluations.best_path(facts.metrics, run.path / directory.name, run.best)
        state.save_to_json(os.path.join(directory, TRAINER_STATE_NAME))
        if not self._trainer.args.save_only_model:
            self._session.capture_loop().write(directory)
