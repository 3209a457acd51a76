"""What the harness does to files: make them durable, count them, forget their pages, remove them."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def files_below(path: Path) -> Iterator[Path]:
    """Regular files of a tree, or the file itself."""
    if path.is_file():
        yield path
    for directory, _, names in os.walk(path):
        yield from (Path(directory) / name for name in names)


def sync(path: Path) -> None:
    """fsync every file and directory of a tree and the directory that it is in; nearly free where that was done."""
    directories = [Path(directory) for directory, _, _ in os.walk(path)] if path.is_dir() else []
    for each in [*files_below(path), *directories, path.parent]:
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(each, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def size(path: Path) -> int:
    """Bytes of all files of a tree."""
    total = 0
    for each in files_below(path):
        with contextlib.suppress(FileNotFoundError):
            total += each.stat().st_size
    return total


def remove(path: Path) -> None:
    """Remove a tree or a file, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def forget(path: Path) -> float:
    """Drop a tree's pages from the page cache; returns the share of its bytes that is cached still (0 to 1)."""
    sync(path)
    cached = total = 0
    for each in files_below(path):
        descriptor = os.open(each, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            length = os.fstat(descriptor).st_size
            total += length
            cached += _resident(descriptor, length)
        finally:
            os.close(descriptor)
    return cached / total if total else 0.0


def read_through(path: Path) -> None:
    """Bring a tree's bytes into the page cache."""
    for each in files_below(path):
        with each.open("rb", buffering=0) as file:
            while file.read(2**24):
                pass


def cached(path: Path) -> float:
    """The share of a tree's bytes that the page cache holds (0 to 1)."""
    held = total = 0
    for each in files_below(path):
        descriptor = os.open(each, os.O_RDONLY)
        try:
            length = os.fstat(descriptor).st_size
            total += length
            held += _resident(descriptor, length)
        finally:
            os.close(descriptor)
    return min(held / total, 1.0) if total else 0.0


def _resident(descriptor: int, length: int) -> int:
    """Bytes of a file that the page cache holds."""
    if not length:
        return 0
    pages = -(-length // mmap.PAGESIZE)
    states = (ctypes.c_ubyte * pages)()
    with mmap.mmap(descriptor, length, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as mapping:
        view = (ctypes.c_ubyte * length).from_buffer(mapping)
        failed = ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(view)), ctypes.c_size_t(length), states)
        del view
    return 0 if failed else sum(state & 1 for state in states) * mmap.PAGESIZE
