"""The system calls that writing needs, each one method, so that a test can stand in for any of them."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from pathlib import Path

DEFAULT_ALIGNMENT = 4096
"""Bytes; safe for every block device in use."""
SYNC_WAIT_BEFORE, SYNC_WRITE, SYNC_WAIT_AFTER = 1, 2, 4
_O_DIRECT = getattr(os, "O_DIRECT", 0)
_AT_EMPTY_PATH = 0x1000
_STATX_DIOALIGN = 0x2000
_STATX_BYTES = 256
_DIO_ALIGN_AT = 152
UNSUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ESPIPE)
"""What file systems answer to a call that they don't have."""


class Alignment:
    """What direct I/O asks for, in bytes: of the address in memory, and of offset and length in the file."""

    def __init__(self, memory: int = DEFAULT_ALIGNMENT, file: int = DEFAULT_ALIGNMENT) -> None:
        self.memory = memory
        self.file = file


class Kernel:
    """The real system calls. All raise OSError."""

    def create(self, path: Path) -> int:
        """A new file, open for writing; never an existing one, never through a link."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(path, flags, 0o666)

    def alignment(self, fd: int) -> Alignment | None:
        """What direct I/O on this file asks for (statx, Linux 6.1; a guess before it), None where there is none."""
        buffer = ctypes.create_string_buffer(_STATX_BYTES)
        statx = getattr(_libc, "statx", None)
        if not _O_DIRECT:
            return None
        if statx is None or statx(fd, b"", _AT_EMPTY_PATH, _STATX_DIOALIGN, buffer) != 0:
            return Alignment()
        if not struct.unpack_from("I", buffer)[0] & _STATX_DIOALIGN:
            return Alignment()
        memory, file = struct.unpack_from("II", buffer, _DIO_ALIGN_AT)
        # Writing parts of a file system block in place takes exclusive locks, so never less than the usual block.
        return Alignment(memory, max(file, DEFAULT_ALIGNMENT)) if file else None

    def set_direct(self, fd: int, on: bool) -> bool:
        """Switch O_DIRECT; False where the file system refuses."""
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | _O_DIRECT if on else flags & ~_O_DIRECT)
        except OSError as error:
            if error.errno in UNSUPPORTED:
                return False
            raise
        return True

    def allocate(self, fd: int, size: int) -> None:
        """Reserve `size` bytes on disk where the file system can; never by writing zeros, as the C library would."""
        fallocate = getattr(_libc, "fallocate", None)
        if fallocate is None or size == 0:
            return
        if fallocate(fd, 0, ctypes.c_longlong(0), ctypes.c_longlong(size)) != 0:
            code = ctypes.get_errno()
            if code not in UNSUPPORTED:
                raise OSError(code, os.strerror(code))

    def write(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        """Write buffers one behind the other at an offset; returns how many bytes were taken, perhaps not all."""
        return os.pwritev(fd, buffers, offset)

    def sync_range(self, fd: int, offset: int, length: int, flags: int) -> None:
        """Start or await write-back of a range of a buffered file; nothing where the system can't."""
        sync = getattr(_libc, "sync_file_range", None)
        if sync is None:
            return
        if sync(fd, ctypes.c_longlong(offset), ctypes.c_longlong(length), ctypes.c_uint(flags)) != 0:
            code = ctypes.get_errno()
            if code not in UNSUPPORTED:
                raise OSError(code, os.strerror(code))

    def forget(self, fd: int, offset: int, length: int) -> None:
        """Drop clean pages of a range from the page cache, so that they don't push out others."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_DONTNEED)

    def truncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def sync(self, fd: int) -> None:
        """Make the file's bytes durable."""
        full = getattr(fcntl, "F_FULLFSYNC", None)
        if full is None:
            os.fsync(fd)
        else:
            fcntl.fcntl(fd, full)

    def close(self, fd: int) -> None:
        os.close(fd)


_libc = ctypes.CDLL(None, use_errno=True)
