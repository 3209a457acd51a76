"""One file being written: direct where the file system takes it, else buffered with write-behind."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from keepstep.formats.kernel import SYNC_WAIT_AFTER, SYNC_WAIT_BEFORE, SYNC_WRITE, Alignment, Kernel
from keepstep.formats.memory import after

WRITE_BEHIND = 32 * 2**20
"""Bytes of a buffered file that may wait for the disk before more are written."""
_REFUSALS = (errno.EINVAL, errno.EOPNOTSUPP)
_log = logging.getLogger(__name__)
_told: set[int] = set()


class FileSink:
    """Takes aligned requests for a new file and makes them durable.

    Raises OSError with the file's name: FileExistsError for a path that is taken, ENOSPC already when it is opened
    where the file system can allocate. What was written until then stays; the caller throws it away.
    """

    def __init__(self, path: Path, size: int, kernel: Kernel | None = None, *, direct: bool = True) -> None:
        self.path = path
        self._kernel = kernel or Kernel()
        self._size = size
        with self._named():
            self._fd = self._kernel.create(path)
        try:
            with self._named():
                self._device = os.fstat(self._fd).st_dev
                self._kernel.allocate(self._fd, size)
                wanted = self._kernel.alignment(self._fd) if direct else None
                self.direct = wanted is not None and self._kernel.set_direct(self._fd, True)
        except BaseException:
            self.abandon()
            raise
        self.alignment = wanted if self.direct and wanted is not None else Alignment(1, 1)
        if direct and not self.direct:
            self._tell()

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Write all of some buffers at an offset; from several threads at once, each with a range of its own."""
        with self._named():
            start, left = offset, list(buffers)
            while left:
                taken = self._write_some(left, offset)
                if taken <= 0:
                    raise OSError(errno.EIO, "the file system took no bytes")
                offset += taken
                left = after(left, taken)
                if left and self.direct and taken % self.alignment.file:
                    self._go_buffered()
            if not self.direct:
                self._write_behind(start, offset - start)

    def finish(self) -> None:
        """Cut to the true size, sync, close; only after it is the file durable (its directory entry not yet)."""
        with self._named():
            self._kernel.truncate(self._fd, self._size)
            self._kernel.sync(self._fd)
            fd, self._fd = self._fd, -1
            self._kernel.close(fd)

    def abandon(self) -> None:
        """Close after a failure; what it says no longer matters."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            with contextlib.suppress(OSError):
                self._kernel.close(fd)

    def _write_some(self, buffers: Sequence[memoryview], offset: int) -> int:
        was_direct = self.direct  # another thread may turn it off while this write fails
        try:
            return self._kernel.write(self._fd, buffers, offset)
        except OSError as error:
            if not was_direct or error.errno not in _REFUSALS:
                raise
        self._tell()
        self._go_buffered()
        return self._kernel.write(self._fd, buffers, offset)

    def _go_buffered(self) -> None:
        self._kernel.set_direct(self._fd, False)
        self.direct = False

    def _write_behind(self, offset: int, length: int) -> None:
        self._kernel.sync_range(self._fd, offset, length, SYNC_WRITE)
        if offset >= WRITE_BEHIND:
            behind = offset - WRITE_BEHIND
            self._kernel.sync_range(self._fd, behind, length, SYNC_WAIT_BEFORE | SYNC_WRITE | SYNC_WAIT_AFTER)
            self._kernel.forget(self._fd, behind, length)

    def _tell(self) -> None:
        if self._device not in _told:
            _told.add(self._device)
            _log.warning("%s: the file system takes no direct I/O; files are written through the page cache", self.path)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.filename is None:
                error.filename = str(self.path)
            raise
