"""A trainer's state as it is written beside the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any
from unittest.mock import patch

from transformers import TrainerState

from keepstep.integrations.transformers.metrics.numbers import writable
from keepstep.integrations.transformers.setup.messages import logger


class WrittenState:
    """Copies of one trainer's state that JSON can carry: numbers of numpy and torch in its log are Python's there.

    What has no such form is left out of the copy, which is said once for each name. A log's entries are converted
    once: later copies cost what is new.
    """

    def __init__(self) -> None:
        self._log: list[Any] = []
        self._last: Any = None
        self._said: set[str] = set()

    def copy(self, state: TrainerState) -> TrainerState:
        """A copy that nothing done to the state reaches."""
        mine = copy.copy(state)
        for field in fields(mine):
            if field.name != "log_history":
                plain = writable(getattr(state, field.name), self._leave_out, field.name)
                setattr(mine, field.name, copy.deepcopy(plain))
        mine.log_history = self._log_of(state.log_history)
        return mine

    @contextmanager
    def saved_by_stock(self) -> Iterator[None]:
        """While it lasts, the stock writer writes such a copy too."""
        write: Callable[..., None] = TrainerState.save_to_json
        with patch.object(TrainerState, "save_to_json", lambda state, path: write(self.copy(state), path)):
            yield

    def _log_of(self, history: list[Any]) -> list[Any]:
        known = len(self._log)
        if known and (known > len(history) or history[known - 1] is not self._last):
            self._log.clear()
        for entry in history[len(self._log) :]:
            self._log.append(writable(entry, self._leave_out))
            self._last = entry
        return list(self._log)

    def _leave_out(self, name: str) -> None:
        if name not in self._said:
            logger.warning("%s of the trainer's state can't be written as JSON: it is left out", name)
        self._said.add(name)
