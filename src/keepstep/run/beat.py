"""The sign of life of a training: where it stands, written over itself at the ends of its steps."""

from __future__ import annotations

import os
import time
from contextlib import suppress

import msgspec

from keepstep import layout
from keepstep.stores import Store

EVERY = 1.0
"""Seconds between two signs of life: that many cost a training nothing, however short its steps."""
_LENGTH = 256
_OPEN = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Beat(msgspec.Struct, frozen=True):
    """The step that was done at `time` (seconds since the epoch), the last one where that is known, and seconds a step
    since the beat before (None: not known yet).
    """

    pid: int
    host: str
    step: int
    time: float
    max_steps: int | None = None
    pace: float | None = None


class Pulse:
    """Writes and reads `.keepstep/beat.json`. It never fails: a sign of life must not end one."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._file: int | None = None
        self._last = 0.0
        self._step = 0
        self._pace: float | None = None

    def beat(self, step: int, max_steps: int | None = None) -> None:
        """A step is done; mostly nothing is written."""
        now = time.monotonic()
        if self._file is not None and now - self._last < EVERY:
            return
        if self._last and step > self._step:
            self._pace = (now - self._last) / (step - self._step)
        self._last, self._step = now, step
        beat = Beat(os.getpid(), os.uname().nodename, step, time.time(), max_steps, self._pace)
        with suppress(OSError, NotImplementedError):
            if self._file is None:
                self._file = os.open(self._store.local_path(layout.BEAT), _OPEN, 0o666)
            os.pwrite(self._file, msgspec.json.encode(beat).ljust(_LENGTH), 0)

    def stop(self) -> None:
        """No more steps follow."""
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                os.close(file)

    def read(self) -> Beat | None:
        """The last sign of life of any process; None where there is none, or it is being written over."""
        try:
            return msgspec.json.decode(self._store.read(layout.BEAT, limit=layout.SMALL_FILE_LIMIT), type=Beat)
        except (OSError, *layout.NOT_JSON):
            return None
