"""The budget of a tree of runs, in a file below its root, and the tree that a run lies in."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from keepstep import layout
from keepstep.errors import KeepstepError, LayoutTooNew
from keepstep.stores import LocalStore

FORMAT_VERSION = 1


class NoTreeBudget(KeepstepError, FileNotFoundError):
    """The directory has no budget for the runs below it."""

    code = "no-tree-budget"
    exit_code = 3


class _Version(msgspec.Struct):
    format: int


class Budget(msgspec.Struct, frozen=True):
    """What all runs below a directory may take together, and what of it a prune leaves free for the next saves; bytes.
    `since` is when that was said (UTC).
    """

    format: int
    budget: Annotated[int, Meta(gt=0)]
    reserve: Annotated[int, Meta(ge=0)]
    since: datetime


def tree_above(path: str | os.PathLike[str]) -> Path | None:
    """The nearest directory at or above `path`, links followed, that has a budget for the runs below it."""
    place = Path(os.path.realpath(path))
    return next((root for root in (place, *place.parents) if os.path.isfile(root / layout.TREE_BUDGET)), None)


def read_budget(root: Path) -> Budget | None:
    """The budget of a tree, None where it has none. Raises KeepstepError for a file that says nothing, LayoutTooNew."""
    where = root / layout.TREE_BUDGET
    try:
        data = LocalStore(root).read(layout.TREE_BUDGET, limit=layout.SMALL_FILE_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        version = msgspec.json.decode(data, type=_Version).format
        if version > FORMAT_VERSION:
            raise LayoutTooNew(
                f"{where} has format {version}; this keepstep reads up to {FORMAT_VERSION}",
                hint="Upgrade it: pip install -U keepstep",
            )
        return msgspec.json.decode(data, type=Budget)
    except layout.NOT_JSON as error:
        raise KeepstepError(
            f"{where} is damaged: {error}", hint=f"Say it anew: keepstep budget set {root} SIZE"
        ) from error


def must_have_budget(root: Path) -> Budget:
    """The budget of a tree. Raises NoTreeBudget, and what `read_budget` raises."""
    found = read_budget(root)
    if found is None:
        above = tree_above(root)
        hint = (
            f"There is one above it: keepstep budget show {above}"
            if above
            else f"Set one: keepstep budget set {root} 2TB"
        )
        raise NoTreeBudget(f"{root} has no budget for the runs below it", hint=hint)
    return found


def write_budget(root: Path, budget: Budget) -> None:
    """Create or replace the budget of a tree, durably."""
    store = LocalStore(root)
    store.make_directory(layout.TREE)
    store.replace(layout.TREE_BUDGET, msgspec.json.format(msgspec.json.encode(budget), indent=1) + b"\n")
