"""The run in a directory, whoever wrote its checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

from keepstep.errors import RunNotFound
from keepstep.run.run import Run
from keepstep.run.runfile import holds_stock, is_run
from keepstep.stores import LocalStore, store_at


def open_run(path: str | os.PathLike[str]) -> Run:
    """The run in a directory, managed or not. Raises RunNotFound, and what `Run.open` raises."""
    try:
        return Run.open(path)
    except RunNotFound:
        store = store_at(path if isinstance(path, Path) else Path(path))
        if not holds_stock(store):
            raise
        # What reads the checkpoints of others is imported only where there are any.
        from keepstep.run.unmanaged import StockRun

        return StockRun(store)


def holds_run(path: str | os.PathLike[str]) -> bool:
    """True for a directory that `open_run` opens."""
    try:
        return is_run(path) or holds_stock(LocalStore(Path(path)))
    except OSError:
        return False
