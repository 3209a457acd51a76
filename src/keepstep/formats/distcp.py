"""The file that one rank writes of a distributed checkpoint (DCP): pickles, then a zip of torch for each tensor.

What a zip holds beside the tensor's bytes follows from dtype, shape and stride alone, so that tensors which agree in
these share one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from keepstep.formats.layout import Checksums, FileLayout, LayoutBuilder, UnsupportedTensorError
from keepstep.formats.torch_file import plan_torch


class Form(NamedTuple):
    """What the bytes around a tensor's own follow from: its dtype, shape, and the stride that it is saved with."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Extent(NamedTuple):
    """Where an item lies in its file, in bytes."""

    offset: int
    length: int


class ShardFile:
    """Lays items out one behind the other, in the order of the calls; their bytes are sources of the names given."""

    def __init__(self) -> None:
        self._builder = LayoutBuilder()
        self._zips: dict[Form, tuple[FileLayout, str]] = {}

    def data(self, name: str, length: int) -> Extent:
        """Append `length` bytes as they are."""
        offset = self._builder.size
        self._builder.source(name, length)
        return Extent(offset, length)

    def tensor(self, name: str, form: Form) -> Extent:
        """Append a tensor as `torch.save` writes it alone. Raises UnsupportedTensorError."""
        if form not in self._zips:
            self._zips[form] = _zip_of(form)
        zipped, inner = self._zips[form]
        offset = self._builder.size
        for piece in zipped.pieces:
            if piece.literal is not None:
                self._builder.literal(piece.literal)
            elif piece.source is not None:
                self._builder.source(name, piece.length)
            elif piece.late is not None:
                self._builder.late(piece.length, partial(_late, piece.late, inner, name))
        return Extent(offset, zipped.size)

    def build(self) -> FileLayout:
        """The layout of everything appended."""
        return self._builder.build()


def form_of(tensor: torch.Tensor) -> Form:
    """How a plain tensor is saved. Raises UnsupportedTensorError for one whose bytes are not its values alone."""
    if type(tensor) is not torch.Tensor or tensor.layout != torch.strided or tensor.is_quantized:
        raise UnsupportedTensorError(f"a {type(tensor).__name__} of {tensor.layout} has a form of its own")
    if tensor.is_neg() or tensor.is_conj():
        raise UnsupportedTensorError("a tensor with a pending negation or conjugation has other bytes than values")
    return Form(tensor.dtype, tuple(tensor.shape), tensor.stride())


def _zip_of(form: Form) -> tuple[FileLayout, str]:
    """A zip around any tensor of a form, and the name of its source there."""
    plan = plan_torch(torch.empty_strided(form.shape, form.stride, dtype=form.dtype))
    return plan.layout, next(iter(plan.storages), "")


def _late(make: Callable[[Checksums], bytes], inner: str, name: str, checksums: Checksums) -> bytes:
    return make({inner: checksums[name]})
