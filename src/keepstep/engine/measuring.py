"""How much the elements of two tensors differ, from their bytes."""

from __future__ import annotations

from functools import cache

import torch

from keepstep.formats.change import Sums
from keepstep.formats.safetensors_file import stock_dtypes

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by the bytes of an element, to compare bits."""


def one_thread() -> None:
    """Let torch work in the calling thread alone: pieces are small, and waiting for helpers costs more than they do."""
    torch.set_num_threads(1)


def measure(before: memoryview, after: memoryview, dtypes: tuple[str, str]) -> Sums:
    """The sums over as many elements as both have; `dtypes` are those of before and after, by safetensors' names.

    Memory: some sixty bytes an element. An element of another dtype is unchanged where its value is. Raises ValueError
    for a dtype that torch does not know here.
    """
    old, new = _tensor(before, dtypes[0]), _tensor(after, dtypes[1])
    if old.is_complex() != new.is_complex():
        raise ValueError("complex numbers and real ones have no difference here")
    one, two = _values(old), _values(new)
    if old.dtype is new.dtype:
        bits = _BITS[old.element_size()]
        same = old.view(bits) == new.view(bits)
    else:
        same = ((one == two) | (one.isnan() & two.isnan())).view(old.numel(), -1).all(dim=1)
    finite_before, finite_after = torch.isfinite(one), torch.isfinite(two)
    both = finite_before & finite_after
    if not bool(both.all()):
        one, two = one.where(both, 0.0), two.where(both, 0.0)
    change = two - one
    return Sums(
        elements=old.numel(),
        unchanged=int(same.sum()),
        squares=float(one.dot(one)),
        change=float(change.dot(change)),
        largest=float(change.abs_().max()) if change.numel() else 0.0,
        non_finite_before=int((~finite_before).sum()),
        non_finite_after=int((~finite_after).sum()),
    )


def _tensor(data: memoryview, dtype: str) -> torch.Tensor:
    known = _dtypes().get(dtype)
    if known is None:
        raise ValueError(f"torch knows no {dtype} here")
    return torch.frombuffer(data, dtype=known) if data.nbytes else torch.empty(0, dtype=known)


def _values(tensor: torch.Tensor) -> torch.Tensor:
    """In double precision; of a complex number both parts."""
    return (torch.view_as_real(tensor).flatten() if tensor.is_complex() else tensor).to(torch.float64)


@cache
def _dtypes() -> dict[str, torch.dtype]:
    return {known.code: dtype for dtype, known in stock_dtypes().items()}
