"""A rank that fails between two collectives must still come to the next: its failures are kept, and told afterwards."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from transformers import TrainerState

from keepstep.integrations.transformers.stock import SAVE_FILE

_WRITERS = (*SAVE_FILE, ("torch", "save"), ("os", "makedirs"))
"""What stock savers call between two collectives and may fail: module, and name there."""


class Deferral:
    """The failures of one rank in one save, kept so that it goes on to where the others wait for it."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self._thread = threading.get_ident()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Around a part of a save in which no other rank is waited for: what it fails with is kept."""
        try:
            yield
        except Exception as error:
            self.failures.append(error)

    @contextmanager
    def of_writers(self) -> Iterator[None]:
        """While it lasts, the stock writers of this thread fail so."""
        with ExitStack() as replaced:
            for module, name in _WRITERS:
                if module in sys.modules:
                    writer = self.keeping(getattr(sys.modules[module], name))
                    replaced.enter_context(patch.object(sys.modules[module], name, writer))
            replaced.enter_context(patch.object(TrainerState, "save_to_json", self.keeping(TrainerState.save_to_json)))
            yield

    def keeping(self, write: Callable[..., Any]) -> Callable[..., Any]:
        """A writer whose failures are kept, in the thread of the save; others it fails in as ever."""

        def writer(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                return write(*args, **kwargs)
            with self.kept():
                return write(*args, **kwargs)
            return None

        return writer


def cause_of(error: BaseException) -> tuple[BaseException, int | None]:
    """What a collective write failed with and on which rank, where torch's DCP tells that; else the error itself."""
    from torch.distributed.checkpoint.api import CheckpointException

    if isinstance(error, CheckpointException):
        causes = [(cause, rank) for rank, (cause, _) in sorted(error.failures.items()) if isinstance(cause, Exception)]
        first = next((one for one in causes if isinstance(one[0], OSError)), causes[0] if causes else None)
        if first is not None:
            return first
    return error, None
