"""Flat bytes in host memory: addresses, aligned buffers, and copies that free the GIL. Without torch."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence

PAGE = 4096
SMALL_COPY = 64 * 1024
"""Bytes below which a copy is too short to be worth releasing the GIL."""


def address(view: memoryview) -> int:
    """Address of a view's first byte; 0 for an empty or read-only one, which ctypes can't tell."""
    if view.readonly or view.nbytes == 0:
        return 0
    return ctypes.addressof(ctypes.c_char.from_buffer(view))


def aligned_buffer(size: int, *, huge: bool = False) -> memoryview:
    """Zeroed, page-aligned, writable memory of at least `size` bytes; `huge` asks for 2 MiB pages.

    The pages are not touched yet: the first write to each costs a page fault.
    """
    rounded = max(PAGE, -(-size // PAGE) * PAGE)
    buffer = mmap.mmap(-1, rounded, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge and hasattr(mmap, "MADV_HUGEPAGE"):
        buffer.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(buffer)


def touch(view: memoryview) -> None:
    """Write to every page, so that later writes cost no page faults; the content is lost."""
    ctypes.memset(address(view), 0, view.nbytes)


def copy(target: memoryview, source: memoryview) -> None:
    """Copy all of `source` to the start of `target`; big copies run without the GIL."""
    if source.nbytes < SMALL_COPY or source.readonly:
        target[: source.nbytes] = source
    else:
        ctypes.memmove(address(target), address(source), source.nbytes)


def after(buffers: Sequence[memoryview], count: int) -> list[memoryview]:
    """What is left of buffers when their first `count` bytes are done."""
    left: list[memoryview] = []
    for buffer in buffers:
        skipped = min(count, buffer.nbytes)
        count -= skipped
        if skipped < buffer.nbytes:
            left.append(buffer[skipped:])
    return left
