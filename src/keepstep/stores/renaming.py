"""Renames that never replace and swaps in one step, by renameat2(2) where the kernel and file system have it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY}

Renameat2 = Callable[[int, bytes, int, bytes, int], int]


@cache
def _renameat2() -> Renameat2 | None:
    """glibc's renameat2 (2.28 or newer), None elsewhere."""
    import ctypes  # not for commands that only read

    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    function.restype = ctypes.c_int
    return function


def _call(source: Path, target: Path, flags: int) -> bool:
    """True when done, False when the system can't. Raises OSError for every other failure."""
    function = _renameat2()
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    import ctypes

    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(source), None, str(target))


def rename_without_replacing(source: Path, target: Path) -> None:
    """Rename `source` to `target`. Raises FileExistsError when the target's name is taken.

    Where the file system refuses RENAME_NOREPLACE (NFS, some FUSE), it looks first and then renames: the
    caller's lock on the run makes that safe against other keepstep processes.
    """
    if _call(source, target, _RENAME_NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(source), None, str(target))
    os.rename(source, target)


def exchange_names(one: Path, other: Path) -> bool:
    """Swap two names atomically. False, with nothing done, where the file system can't."""
    return _call(one, other, _RENAME_EXCHANGE)
