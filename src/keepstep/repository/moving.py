"""Moving a checkpoint's directory from one place of a store to another: durable on both sides, or where it was."""

from __future__ import annotations

import uuid
from contextlib import ExitStack

from keepstep import layout
from keepstep.stores import Store


def move(store: Store, key: str, home: str, name: str) -> str:
    """Durably move a directory to `home`, which is made, under a name; returns its new key. A failure moves it back.

    `home` is "" for the store itself. Raises FileExistsError where the name is taken, OSError.
    """
    parent = key.rpartition("/")[0]
    moved = f"{home}/{name}" if home else name
    if home:
        store.make_directory(home)
    with ExitStack() as undo:
        store.rename(key, moved)
        undo.callback(store.rename, moved, key)
        store.sync_directory(home)
        store.sync_directory(parent)
        undo.pop_all()
    return moved


def swap(store: Store, one: str, other: str) -> bool:
    """Durably swap two directories in one step; False (and nothing done) where the file system can't."""
    with ExitStack() as undo:
        if not store.exchange(one, other):
            return False
        undo.callback(store.exchange, one, other)
        store.sync_directory(one.rpartition("/")[0])
        store.sync_directory(other.rpartition("/")[0])
        undo.pop_all()
    return True


def free_home(store: Store, timeline: int, name: str) -> str:
    """The directory of an abandoned timeline in which a name is free."""
    home = f"{layout.TIMELINES}/{timeline}"
    return f"{home}/{uuid.uuid4().hex[:8]}" if store.exists(f"{home}/{name}") else home
