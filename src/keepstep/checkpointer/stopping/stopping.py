"""Whether a training is to stop, or to save, now: everything that may say so, asked once a step."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from keepstep.checkpointer.stopping.deadline import Deadline, deadlines_of
from keepstep.checkpointer.stopping.limits import StopFile, TimeLimit
from keepstep.checkpointer.stopping.signals import Signals
from keepstep.checkpointer.stopping.told import Told

logger = logging.getLogger("keepstep")

OUTSIDE = (
    "this training does not run in the main thread, where alone signals can be heard: ckpt.request_stop() and "
    "ckpt.request_save() do the same"
)


class Stopping:
    """What one training is told. `told` is the first that told it to stop, `wants_save` is set until it is taken.

    Whoever sets them may be a signal handler, or another thread.
    """

    def __init__(
        self,
        *,
        max_time: str | None = None,
        stop_file: str | os.PathLike[str] | None = None,
        preempt_deadline: str | None = None,
    ) -> None:
        self.limit = TimeLimit(max_time)
        self._file = StopFile(stop_file)
        self._given = preempt_deadline
        self.deadlines: tuple[Deadline, ...] = deadlines_of(preempt_deadline)
        self.told: Told | None = None
        self.wants_save = False
        self._said_outside = False

    def start(self, directory: Path) -> None:
        """A training of this directory begins: its time runs."""
        self.limit.start()
        self._file.start(directory)
        self.deadlines = deadlines_of(self._given)

    def end(self) -> None:
        """What was said was said to the training that is over."""
        self.told, self.wants_save = None, False

    @contextmanager
    def hearing(self, signals: Signals) -> Generator[None]:
        """Hear signals while it lasts; where none can be heard, that is said once."""
        self.end()
        with signals.heard(self.tell) as heard:
            if not heard and not self._said_outside:
                self._said_outside = True
                logger.info(OUTSIDE)
            yield

    def tell(self, told: Told) -> None:
        """Stop at the next step's end."""
        self.told = self.told or told

    def look(self, *others: Callable[[], Told | None]) -> Told | None:
        """What has told the training to stop by now, asked of the clock, the file and `others`."""
        for ask in () if self.told else (self.limit.look, self._file.look, *others):
            if (told := ask()) is not None:
                self.tell(told)
                break
        return self.told

    def take_save(self) -> bool:
        """True when somebody has asked for a save since this was asked last."""
        wanted, self.wants_save = self.wants_save, False
        return wanted

    def left(self) -> float | None:
        """Seconds until the process is killed; None where nobody has said so."""
        told = self.told
        return None if told is None else next((s for one in self.deadlines if (s := one.left(told)) is not None), None)

    def rest(self) -> Callable[[], float | None]:
        """Asked again and again after the training, it says how many seconds there still are: until the kill that was
        announced, also by now; none once Ctrl-C came. None where nobody has said so.
        """
        told, began, left = self.told, time.monotonic(), self.left()

        def now() -> float | None:
            again = self.told if self.told is not told else None
            if again is not None and again.signal == signal.SIGINT:
                return 0.0
            known = [] if left is None else [left - (time.monotonic() - began)]
            later = self.left() if again is not None else None
            return min([*known, *([] if later is None else [later])], default=None)

        return now


def no_end() -> float | None:
    """Nobody has said how long there is."""
    return None
