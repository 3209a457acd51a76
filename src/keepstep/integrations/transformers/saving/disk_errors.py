"""What torch and safetensors raise when the disk fails, as the OSError that it is."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_TORCH_WRITER = re.compile(r"PytorchStreamWriter failed|iostream error|unexpected pos \d+ vs \d+|file write failed")


FULL_BELOW = 2**20
"""Free bytes below which a write that failed without a reason is taken for one on a full disk: 1 MiB."""


@contextmanager
def as_os_error(directory: Path) -> Iterator[None]:
    """Raise OSError in place of the writers' own errors; every other error passes.

    safetensors names the errno in its text (`(os error 28)`); torch's writer says no more than that a write
    failed: ENOSPC where `directory` has no room left, else EIO.
    """
    try:
        yield
    except Exception as error:
        found = as_failure_of_disk(error, directory)
        if found is None or found is error:
            raise
        raise found from error


def as_failure_of_disk(error: BaseException, directory: Path) -> OSError | None:
    """The same for an error that was caught: the OSError that it is; None where it is no failure of the disk."""
    if isinstance(error, OSError):
        return error
    number = _errno_of(error, directory) if isinstance(error, Exception) else None
    return None if number is None else OSError(number, f"{os.strerror(number)}: {error}")


def _errno_of(error: Exception, directory: Path) -> int | None:
    text = str(error)
    if found := _OS_ERROR.search(text):
        return int(found[1])
    if isinstance(error, RuntimeError) and _TORCH_WRITER.search(text):
        return errno.ENOSPC if _is_full(directory) else errno.EIO
    return None


def _is_full(directory: Path) -> bool:
    try:
        room = os.statvfs(directory)
    except OSError:
        return False
    return room.f_bavail * room.f_frsize < FULL_BELOW or (room.f_files > 0 and room.f_favail == 0)
