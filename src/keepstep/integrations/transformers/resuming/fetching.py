"""What random numbers a data loader draws, for its workers and for each batch: noted where it does, or left undrawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any
from unittest.mock import patch

import torch
from torch.utils.data import dataloader

_ANY_ITERATOR: Any = getattr(dataloader, "_BaseDataLoaderIter", None)
_ITERATOR: Any = getattr(dataloader, "_SingleProcessDataLoaderIter", None)
_INDEX = "_next_index"


@contextmanager
def each_fetch(before: Callable[[int], None], after: Callable[[int], None]) -> Iterator[None]:
    """While it lasts, `before` is called before this thread's data loader asks its sampler for the rows of a batch, and
    `after` once it knows them, before it reads them; each with the number of the batch among those fetched meanwhile.

    Of a loader inside of another's data set nothing is heard, nor of one that has workers, or is none of torch's.
    """
    if not hasattr(_ITERATOR, _INDEX):
        yield
        return
    original, thread, number, first = getattr(_ITERATOR, _INDEX), get_ident(), 0, None

    def next_index(iterator: Any) -> Any:
        nonlocal number, first
        first = iterator if first is None else first
        if iterator is not first or get_ident() != thread:
            return original(iterator)
        before(number)
        index = original(iterator)
        number += 1
        after(number - 1)
        return index

    with patch.object(_ITERATOR, _INDEX, next_index):
        yield


@contextmanager
def workers_are_there() -> Iterator[None]:
    """While it lasts, a data loader that starts workers draws no number for them: in the training that is resumed they
    were there already, and stayed.
    """

    def start(iterator: Any, loader: Any, *more: Any) -> None:
        source = torch.default_generator if loader.generator is None else loader.generator
        before = source.get_state()
        original(iterator, loader, *more)
        if loader.persistent_workers:
            source.set_state(before)

    if _ANY_ITERATOR is None:
        yield
        return
    # Their seed is all that it draws; the order of the rows is drawn after it.
    original = _ANY_ITERATOR.__init__
    with patch.object(_ANY_ITERATOR, "__init__", start):
        yield
