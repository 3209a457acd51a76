"""What the machine can do: copy, write and read around the page cache, hash. No method of saving is in here."""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import xxhash

MIB = 2**20
BLOCK = 8 * MIB
IN_FLIGHT = 3
HUGE_PAGES = 14  # MADV_HUGEPAGE, which the mmap module of Python 3.11 names on some builds only


class Buffer:
    """Aligned memory of 2 MiB pages where the system gives them, touched."""

    def __init__(self, size: int) -> None:
        self.size = -(-size // (2 * MIB)) * 2 * MIB
        self._memory = mmap.mmap(-1, self.size)
        with contextlib.suppress(OSError):
            self._memory.madvise(HUGE_PAGES)
        self.view = memoryview(self._memory)
        self.array = numpy.frombuffer(self._memory, dtype=numpy.uint8)
        self.array[:] = numpy.arange(256, dtype=numpy.uint8).repeat(self.size // 256)


def measure(size: int, directory: Path) -> dict[str, float]:
    """Seconds for `size` bytes, of each limit."""
    source, target = Buffer(size), Buffer(size)
    path = directory / "limit"
    results = {
        "memcpy, 1 thread": _timed(lambda: numpy.copyto(target.array, source.array)),
        "memcpy, 2 threads": _timed(lambda: _copy(target, source, 2)),
        "memcpy into new memory": _timed(source.array.copy),
        "xxh3-128, 1 thread": _timed(lambda: xxhash.xxh3_128(source.view).digest()),
    }
    direct = os.O_DIRECT
    try:
        results["O_DIRECT write and fsync"] = _timed(lambda: _write(path, source, direct))
    except OSError:  # tmpfs and some network file systems
        direct = 0
        results["buffered write and fsync (no O_DIRECT here)"] = _timed(lambda: _write(path, source, 0))
    descriptor = os.open(path, os.O_RDONLY)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    label = "O_DIRECT read" if direct else "buffered read, dropped from the cache"
    results[label] = _timed(lambda: _read(path, source, direct))
    path.unlink()
    return results


def _copy(target: Buffer, source: Buffer, threads: int) -> None:
    share = source.size // threads
    with ThreadPoolExecutor(threads) as pool:
        parts = [slice(n * share, (n + 1) * share) for n in range(threads)]
        list(pool.map(lambda part: numpy.copyto(target.array[part], source.array[part]), parts))


def _write(path: Path, source: Buffer, flag: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | flag, 0o600)
    try:
        with contextlib.suppress(OSError):
            os.posix_fallocate(descriptor, 0, source.size)
        _in_blocks(source.size, lambda at: _whole(os.pwrite, descriptor, source.view[at : at + BLOCK], at))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, target: Buffer, flag: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | flag)
    read = lambda fd, view, at: os.preadv(fd, [view], at)  # noqa: E731
    try:
        _in_blocks(target.size, lambda at: _whole(read, descriptor, target.view[at : at + BLOCK], at))
    finally:
        os.close(descriptor)


def _whole(move: Callable[[int, memoryview, int], int], descriptor: int, view: memoryview, at: int) -> None:
    while len(view):
        moved = move(descriptor, view, at)
        view, at = view[moved:], at + moved


def _in_blocks(size: int, move: Callable[[int], None]) -> None:
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        list(pool.map(move, range(0, size, BLOCK)))


def _timed(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began
