"""What callbacks of others do to a checkpoint when they hear that it is saved belongs to it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

from keepstep.checkpointer import Checkpointer
from keepstep.integrations.transformers.metrics.ranking import Ranking
from keepstep.integrations.transformers.saving.saves import Saves
from keepstep.integrations.transformers.setup.bookkeeping import Bookkeeping
from keepstep.integrations.transformers.setup.bystanders import hears
from keepstep.model import Checkpoint
from keepstep.repository import Look
from keepstep.snapshot.ranks import Ranks


class OnSave:
    """Tells callbacks one after the other that a checkpoint is saved, and seals into it what they did there."""

    def __init__(
        self,
        trainer: Any,
        checkpointer: Checkpointer,
        ranks: Ranks,
        *,
        saves: Saves,
        ranking: Ranking,
        books: Bookkeeping,
    ) -> None:
        self._trainer = trainer
        self._checkpointer = checkpointer
        self._ranks = ranks
        self._saves = saves
        self._ranking = ranking
        self._books = books

    @contextmanager
    def told(self) -> Iterator[None]:
        """While it lasts, the trainer's callbacks are told by `tell`."""
        with patch.object(self._trainer.callback_handler, "on_save", self.tell):
            yield

    def tell(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """In place of `CallbackHandler.on_save`; returns the control as the callbacks leave it.

        What is pushed, and what the policy decides by, is the checkpoint as they leave it.
        """
        try:
            control = self._tell(args, state, control, **kwargs)
            self._push()
        except BaseException:
            if self._ranks.leads:
                self._saves.conclude()
            raise
        if self._saves.present is not None:
            self._ranking.judgement.show(self._ranks.agree(self._saves.conclude))
        return control

    def _push(self) -> None:
        folder, self._saves.pending_push = self._saves.pending_push, None
        if folder is not None and self._saves.present is not None:
            self._trainer._push_from_checkpoint(str(self._saves.present.path))

    def _tell(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        handler = self._trainer.callback_handler
        checkpoint = self._saves.present
        heard = any(hears(callback, "on_save") for callback in handler.callbacks)
        # Of several ranks one alone may have such a callback: then all come to what is agreed below.
        if checkpoint is None or (self._ranks.single and not heard):
            return type(handler).on_save(handler, args, state, control, **kwargs)
        run = self._checkpointer.run
        before = run.look(checkpoint)
        seen, wrote = before, list[str]()
        for callback in list(handler.callbacks):
            alone = copy.copy(handler)
            alone.callbacks = [callback]
            control = type(handler).on_save(alone, args, state, control, **kwargs)
            if hears(callback, "on_save"):
                now = run.look(checkpoint)
                wrote += [type(callback).__name__] if now.stamps != seen.stamps else []
                seen = now
        # Each rank has its own callbacks: all are done before rank 0 looks at what they left.
        self._ranks.together(lambda: None)
        seal = partial(self._seal, checkpoint, before, tuple(dict.fromkeys(wrote)))
        what = "the seal of what callbacks wrote into a checkpoint"
        self._saves.present = self._ranks.agree(partial(self._books.attempt, what, seal, checkpoint))
        return control

    def _seal(self, checkpoint: Checkpoint, before: Look, by: tuple[str, ...]) -> Checkpoint:
        sealed = self._checkpointer.run.seal(checkpoint, before, by=by)
        self._checkpointer.headroom.learn(sealed)
        return sealed
