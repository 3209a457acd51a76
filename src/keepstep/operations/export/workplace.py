"""The directory that an export is made in: locked while its process lives, so that what a killed one left can go."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

YOUNG = 60.0
"""Seconds in which a directory may not be locked yet by who made it."""


@contextmanager
def workplace(target: Path) -> Generator[Path]:
    """A new directory beside `target`, gone at the end unless it was renamed; leftovers of killed exports go first.

    Where the file system knows no locks nothing is cleared. Raises OSError where it can't be made.
    """
    name = f".{target.name[:200]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear(target.parent, re.compile(rf"{re.escape(name)}\.[0-9a-f]{{12}}\.exporting"))
    path = target.parent / f"{name}.{uuid.uuid4().hex[:12]}.exporting"
    path.mkdir()
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(descriptor)
        yield path
    finally:
        # After an exchange of names this is the export that was replaced.
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _clear(directory: Path, ours: re.Pattern[str]) -> None:
    with os.scandir(directory) as entries:
        found = [Path(entry.path) for entry in entries if ours.fullmatch(entry.name) and entry.is_dir()]
    for path in found:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                if time.time() - os.fstat(descriptor).st_ctime > YOUNG and _lock(descriptor):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """True when the lock is this process's now. The kernel frees it when the process ends, however it does."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EBADF):
            return False
        raise
    return True
