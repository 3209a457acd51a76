"""What keepstep notes beside a training and its saves: an error in it ends no training."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from keepstep.integrations.transformers.setup.messages import logger

T = TypeVar("T")


class Bookkeeping:
    """Does what may fail without harm to the data; each kind of failure is said once, with its reason."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def attempt(self, what: str, work: Callable[[], T], instead: T) -> T:
        """What `work` returns, or `instead` where it fails; `what` names it, as in "{what} failed"."""
        try:
            return work()
        except Exception as error:
            if what not in self._said:
                details = logger.isEnabledFor(logging.DEBUG)
                text = "%s failed, and is left out: %s: %s"
                logger.warning(text, what, type(error).__name__, error, exc_info=details)
            self._said.add(what)
            return instead
