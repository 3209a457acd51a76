"""What torch and safetensors raise when the disk fails, as the OSError that it is."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_TORCH_WRITER = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+ vs \d+|file write failed")


@contextmanager
def as_os_error() -> Iterator[None]:
    """Raise OSError in place of the writers' own errors; every other error passes.

    safetensors names the errno in its text (`(os error 28)`); torch's writer says no more than that a write
    failed, which is reported as EIO.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        number = _errno_of(error)
        if number is None:
            raise
        raise OSError(number, f"{os.strerror(number)}: {error}") from error


def _errno_of(error: Exception) -> int | None:
    text = str(error)
    if found := _OS_ERROR.search(text):
        return int(found[1])
    return errno.EIO if isinstance(error, RuntimeError) and _TORCH_WRITER.search(text) else None
