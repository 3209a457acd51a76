"""System calls that misbehave on purpose."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from keepstep.formats.direct import OpenSink
from keepstep.formats.kernel import Alignment, Kernel
from keepstep.formats.sink import FileSink


class Counting(Kernel):
    """Counts the writes and the bytes they took."""

    def __init__(self) -> None:
        self.writes = 0
        self.bytes = 0
        self._lock = threading.Lock()

    def write(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        with self._lock:
            self.writes += 1
            number = self.writes
        taken = self.take(number, fd, buffers, offset)
        with self._lock:
            self.bytes += taken
        return taken

    def take(self, number: int, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        del number
        return super().write(fd, buffers, offset)


class Short(Counting):
    """Takes at most `limit` bytes per write; of a limit within a block it writes the block and says less."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def take(self, number: int, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        del number
        left, cut = -(-self.limit // 4096) * 4096, []
        for buffer in buffers:
            cut.append(buffer[:left])
            left -= cut[-1].nbytes
            if left == 0:
                break
        return min(self.limit, os.pwritev(fd, cut, offset))


class Failing(Counting):
    """Fails the n-th write (from 1) with an errno; with 0 the named call instead."""

    def __init__(self, code: int, *, at: int = 0, call: str = "") -> None:
        super().__init__()
        self.code, self.at, self.call = code, at, call

    def take(self, number: int, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if number == self.at:
            raise OSError(self.code, os.strerror(self.code))
        return super().take(number, fd, buffers, offset)

    def allocate(self, fd: int, size: int) -> None:
        self._perhaps("allocate")
        super().allocate(fd, size)

    def truncate(self, fd: int, size: int) -> None:
        self._perhaps("truncate")
        super().truncate(fd, size)

    def sync(self, fd: int) -> None:
        self._perhaps("sync")
        super().sync(fd)

    def close(self, fd: int) -> None:
        super().close(fd)
        self._perhaps("close")

    def _perhaps(self, call: str) -> None:
        if call == self.call:
            raise OSError(self.code, os.strerror(self.code))


class Slow(Counting):
    """Delays each write, the early ones longer, so that later ones overtake them."""

    def take(self, number: int, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        time.sleep(0.05 if number % 3 == 1 else 0)
        return super().take(number, fd, buffers, offset)


class NoDirect(Counting):
    """A file system that refuses O_DIRECT when it is asked for."""

    def set_direct(self, fd: int, on: bool) -> bool:
        del fd
        return not on


class NoAlignment(Counting):
    """A file system that says that it has no direct I/O."""

    def alignment(self, fd: int) -> Alignment | None:
        del fd


class Refusing(Counting):
    """A file system that takes the O_DIRECT flag and refuses each direct write with EINVAL, some time later."""

    def take(self, number: int, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0):
            time.sleep(0.02 * number)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return super().take(number, fd, buffers, offset)


def sinks(kernel: Kernel) -> OpenSink:
    """Opens sinks on this kernel."""

    def opened(path: Path, size: int) -> FileSink:
        return partial(FileSink, kernel=kernel)(path, size)

    return opened
