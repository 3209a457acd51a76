"""The user's own limits of a training: so much time, or a file that appears."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from keepstep.checkpointer.stopping.told import Told
from keepstep.units import parse_duration


class TimeLimit:
    """`max_time` ("7h50m") from the beginning of `train()` on; None: no limit. Raises QuantityError."""

    def __init__(self, max_time: str | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.text = max_time
        self._seconds = None if max_time is None else parse_duration(max_time, "max_time")
        self._clock = clock
        self._since = clock()

    def start(self) -> None:
        """The time begins now."""
        self._since = self._clock()

    def look(self) -> Told | None:
        """What it says now."""
        if self._seconds is None or self._clock() - self._since < self._seconds:
            return None
        return Told(f"max_time {self.text}")


class StopFile:
    """A file by whose name a training is stopped; a relative one lies in the run's directory.

    One that is there when the training begins stops it all the same: it says that nothing is to be trained.
    """

    def __init__(self, name: str | os.PathLike[str] | None) -> None:
        self._name = name
        self._path: Path | None = None

    def start(self, directory: Path) -> None:
        """From now on for the training of this directory."""
        self._path = None if self._name is None else directory / Path(self._name).expanduser()

    def look(self) -> Told | None:
        """What it says now. The directory is opened first, so that NFS asks the server and not its cache."""
        if self._path is None:
            return None
        try:
            os.close(os.open(self._path.parent, os.O_RDONLY))
            os.lstat(self._path)
        except OSError:
            return None
        return Told(f"stop_file {self._path}")
