"""Tensors and storages in host memory as flat bytes, and flat bytes as storages; nothing is copied."""

from __future__ import annotations

from typing import Any

import torch


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


def flat_bytes(live: torch.Tensor | torch.UntypedStorage) -> torch.Tensor:
    """The bytes of a contiguous tensor, or of a storage, as a flat `uint8` tensor on its own device, no copy.

    Raises ValueError for a tensor whose bytes don't lie in a row.
    """
    storage = live.untyped_storage() if isinstance(live, torch.Tensor) else live
    flat: Any = torch.empty(0, dtype=torch.uint8, device=storage.device)
    flat.set_(storage)
    if not isinstance(live, torch.Tensor):
        return flat
    if live.layout != torch.strided or not live.is_contiguous() or live.is_neg() or live.is_conj():
        raise ValueError(f"needs a plain contiguous tensor, got {live.layout} with strides {live.stride()}")
    start = live.storage_offset() * live.element_size()
    return flat[start : start + live.numel() * live.element_size()]
