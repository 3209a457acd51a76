"""A real write of some bytes into a directory, timed until they are durable."""

from __future__ import annotations

import os
import time
from pathlib import Path

from keepstep.errors import SettingsError, StorageError
from keepstep.operations.planning.disk import free_bytes
from keepstep.units import format_size

CHUNK = 16 * 2**20


def probe(directory: Path, size: int) -> float:
    """Bytes per second of writing `size` bytes there and syncing them; the file is removed again.

    The bytes are random, so that no file system gains by compressing them. Raises SettingsError when the directory is
    missing or has too little room, StorageError when it can't be written.
    """
    if not directory.is_dir():
        raise SettingsError(f"{directory} is no directory to probe", hint="Make it first, where the run will be.")
    if free_bytes(directory) < 2 * size:
        raise SettingsError(
            f"{directory} has too little room for a probe of {format_size(size)}", hint="Probe less: --probe-size 64MB."
        )
    path = directory / f".keepstep-probe-{os.getpid()}"
    data = memoryview(os.urandom(min(CHUNK, size)))
    try:
        return size / _timed_write(path, data, size)
    except OSError as error:
        message = f"the probe could not be written: {error.strerror or error}: {directory}"
        raise StorageError(message, errno=error.errno) from error
    finally:
        path.unlink(missing_ok=True)


def _timed_write(path: Path, data: memoryview, size: int) -> float:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        began, left = time.monotonic(), size
        while left:
            left -= os.write(descriptor, data[: min(left, len(data))])
        os.fsync(descriptor)
        return max(time.monotonic() - began, 1e-6)
    finally:
        os.close(descriptor)
