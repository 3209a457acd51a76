"""The signals by which a system says that a process is to end: heard while a training runs, and noted, no more."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from keepstep.checkpointer.stopping.told import Told

HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
AT_ONCE = (signal.SIGTERM, signal.SIGINT)
"""Those that end the process at once when they come a second time."""
ECHO = 2.0
"""Seconds within which a SIGTERM counts as the one before: a scheduler tells a job, a launcher hands it on."""
_SAID = """keepstep: told to stop once more: it ends at once. The newest commit is what counts;
  what was being written is cleared at the next start.
"""

Tell = Callable[[Told], None]


class Signals:
    """Hears signals in the main thread. A handler of the user's own is called too; all are put back at the end.

    What is ignored stays ignored, and a handler that is none of Python's (faulthandler's) stays in force. In a forked
    child SIGTERM does what it did before, and the others do nothing: its parent is the one to stop.
    """

    def __init__(self, numbers: tuple[signal.Signals, ...] = HEARD, *, left_out: Callable[[Any], bool] | None = None):
        """`left_out` says of a handler that was there before that it is not to be called."""
        self._numbers = numbers
        self._left_out: Callable[[Any], bool] = left_out or _no
        self._before: dict[int, Any] = {}
        self._heard: list[int] = []
        self._terminated = -math.inf
        self._tell: Tell | None = None
        self._process = os.getpid()

    @contextmanager
    def heard(self, tell: Tell) -> Generator[bool]:
        """While it lasts `tell` hears of each signal; yields False outside of the main thread, where none can be."""
        if threading.current_thread() is not threading.main_thread():
            yield False
            return
        self._tell, self._heard, self._process = tell, [], os.getpid()
        self._terminated = -math.inf
        self._before = {}
        foreign = _caught()
        try:
            for number in self._numbers:
                before = signal.getsignal(number)
                if before is signal.SIG_IGN or before is None or (before is signal.SIG_DFL and number in foreign):
                    continue
                self._before[number] = before
                signal.signal(number, self._hear)
            yield True
        finally:
            self._put_back()

    def deliver(self) -> None:
        """Hand on what came when nothing was left to be stopped, where nobody but the system would have heard it."""
        waiting, self._heard = self._heard[:1], []
        for number in waiting:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.raise_signal(number)

    def forget(self) -> None:
        """What has come is answered."""
        self._heard = []

    def _hear(self, number: int, frame: FrameType | None) -> None:
        before = self._before.get(number)
        if os.getpid() != self._process:
            if number == signal.SIGTERM:
                _end_by(number, before)
            return
        again = number in self._heard and number in AT_ONCE
        if number == signal.SIGTERM:
            before_that, self._terminated = self._terminated, time.monotonic()
            if again and self._terminated - before_that < ECHO:
                return
        self._heard.append(number)
        if again:
            os.write(2, _SAID.encode())
            self._end(number, before, frame)
            return
        if self._tell is not None:
            self._tell(Told(signal.Signals(number).name, number))
        if callable(before) and before is not signal.default_int_handler and not self._left_out(before):
            before(number, frame)

    def _end(self, number: int, before: Any, frame: FrameType | None) -> None:
        """Do what would have been done without us; where a person sits at a prompt, that stays."""
        own = callable(before) and not self._left_out(before)
        if own and (before is not signal.default_int_handler or _is_interactive()):
            before(number, frame)
        else:
            _end_by(number, signal.SIG_DFL)

    def _put_back(self) -> None:
        for number, before in self._before.items():
            if signal.getsignal(number) == self._hear:  # else somebody has put his own there meanwhile
                signal.signal(number, before)


def _no(handler: Any) -> bool:
    return False


def _end_by(number: int, handler: Any) -> None:
    signal.signal(number, handler)
    os.kill(os.getpid(), number)


def _is_interactive() -> bool:
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules


def _caught() -> set[int]:
    """The signals for which this process has handlers, those of other libraries included; empty where none can tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        mask = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return set()
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}
