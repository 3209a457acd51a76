"""Host memory as flat bytes: of tensors and storages, its address, aligned buffers, and copies that free the GIL."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from typing import Any

import torch

PAGE = 4096
SMALL_COPY = 64 * 1024
"""Bytes below which a copy is too short to be worth releasing the GIL."""


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, no copy. Raises ValueError for any other tensor."""
    if tensor.device.type != "cpu" or tensor.layout != torch.strided or not tensor.is_contiguous():
        raise ValueError(f"needs a contiguous tensor in host memory, got {tensor.layout} on {tensor.device}")
    if tensor.is_neg() or tensor.is_conj():
        raise ValueError("a tensor with a pending negation or conjugation has other bytes than values")
    start = tensor.storage_offset() * tensor.element_size()
    return storage_bytes(tensor.untyped_storage())[start : start + tensor.numel() * tensor.element_size()]


def storage_bytes(storage: torch.UntypedStorage) -> memoryview:
    """All bytes of a CPU storage, no copy; they live as long as the view. Raises ValueError for another device."""
    if storage.device.type != "cpu":
        raise ValueError(f"needs a storage in host memory, got one on {storage.device}")
    if storage.nbytes() == 0:
        return memoryview(bytearray())
    flat: Any = torch.empty(0, dtype=torch.uint8).set_(storage)  # pyright: ignore[reportArgumentType]
    return memoryview(flat.numpy())


def storage_over(view: memoryview) -> torch.UntypedStorage:
    """A CPU storage of its own over some writable bytes, no copy; it keeps them alive."""
    if view.nbytes == 0:
        return torch.UntypedStorage(0)
    return torch.frombuffer(view, dtype=torch.uint8).untyped_storage()


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
