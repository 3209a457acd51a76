"""A trap: lets a strike happen to the process of a training, at one moment of one save."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from keepstep import layout
from keepstep.model import FULL_PREFIX
from keepstep.repository import MANIFEST_NAME
from keepstep.testing.faults import Injector
from keepstep.testing.integration_course import Course, Effect, Point, Strike

LONGEST_HOLD = 120.0
"""Seconds after which a training that nobody lets go gives up."""
GROWING = frozenset({"make_directory", "write", "append", "replace"})
"""Changes that need room on the disk."""

Result = TypeVar("Result")


class Trap(Injector):
    """Watches the changes of a store, and strikes once; a disk that was struck by FULL stays full.

    It stands on the calls that commit every checkpoint, whoever wrote its files: a kill while they are being written
    is made at the manifest, by taking away what would not have been there yet.
    """

    def __init__(self, course: Course, strike: Strike) -> None:
        super().__init__()
        self._course = course
        self._strike = strike
        self._name = f"{FULL_PREFIX}{strike.step}"
        self._published = False
        self._full = False

    def run(
        self, operation: str, path: str, change: Callable[[], Result], half: Callable[[], None] | None = None
    ) -> Result:
        """Make a change, unless it is the one that the strike waits for."""
        here = self._is_here(operation, path)
        if here and self._strike.effect is Effect.KILL:
            return self._die(path, change, half)
        if here and self._strike.effect is Effect.HOLD:
            self._hold()
        self._full |= here and self._strike.effect is Effect.FULL
        if self._full and operation in GROWING:
            self._course.struck.touch()
            if operation == "write" and half is not None:
                half()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        return change()

    def _is_here(self, operation: str, path: str) -> bool:
        point = self._strike.point
        if operation == "write" and path.endswith(f"/{self._name}/{MANIFEST_NAME}"):
            return self._strike.effect is not Effect.KILL or point in _AT_THE_MANIFEST
        if operation != "rename" or self._strike.effect is not Effect.KILL:
            return False
        if path.startswith(layout.STAGING) and path.endswith(f"/{self._name}"):
            self._published = True
            return point in (Point.STAGED, Point.COMMITTED)
        return point is Point.REMOVING and self._published and not path.startswith(layout.META)

    def _die(self, path: str, change: Callable[[], Result], half: Callable[[], None] | None) -> NoReturn:
        staged = Path(self._course.directory, path).parent
        match self._strike.point:
            case Point.UNBEGUN:
                shutil.rmtree(staged)
            case Point.HALF_FILE:
                _halve(staged)
            case Point.HALF_MANIFEST if half is not None:
                half()
            case Point.COMMITTED | Point.REMOVING:
                change()
            case _:
                pass
        self._course.struck.touch()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    def _hold(self) -> None:
        self._course.struck.touch()
        until = time.monotonic() + LONGEST_HOLD
        while not self._course.released.exists():
            if time.monotonic() > until:
                raise TimeoutError(f"nobody let the training go on within {LONGEST_HOLD:.0f} s")
            time.sleep(0.01)


_AT_THE_MANIFEST = (Point.UNBEGUN, Point.HALF_FILE, Point.HALF_MANIFEST)


def _halve(staged: Path) -> None:
    """Leave the first half of the files, and of the one in the middle the first half of its bytes."""
    files = sorted(path for path in staged.rglob("*") if path.is_file())
    middle = len(files) // 2
    os.truncate(files[middle], files[middle].stat().st_size // 2)
    for path in files[middle + 1 :]:
        path.unlink()
