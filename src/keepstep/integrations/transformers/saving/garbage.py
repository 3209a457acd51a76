"""Garbage that is sought when a save is begun, and not while a training waits for that."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def sought_later() -> Iterator[None]:
    """While it lasts Python seeks no garbage: the objects of a save are gone by themselves, and those of the libraries
    would be looked at in vain. Where somebody has turned the search off, it stays off.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
