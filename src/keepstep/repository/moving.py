"""Moving a checkpoint's directory from one place of a store to another: durable on both sides, or where it was."""

from __future__ import annotations

import uuid
from contextlib import ExitStack, suppress

from keepstep import layout
from keepstep.log import logger
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


def free_home(store: Store, timeline: int, name: str) -> str:
    """The directory of an abandoned timeline in which a name is free."""
    home = f"{layout.TIMELINES}/{timeline}"
    return f"{home}/{uuid.uuid4().hex[:8]}" if store.exists(f"{home}/{name}") else home


def drop_emptied(store: Store, key: str) -> None:
    """The directory that one checkpoint had for itself goes with it; that of a timeline stays, for its number."""
    home = key.rpartition("/")[0]
    with suppress(OSError):
        if home and home.rpartition("/")[0] != layout.TIMELINES and not store.list(home):
            store.delete(home)


def make_way(store: Store, name: str) -> str:
    """Move aside what is none of the run's and has the name of a checkpoint of it, and say so; returns its new key."""
    key = move(store, name, f"{layout.PREVIOUS}/foreign-{uuid.uuid4().hex[:8]}", name)
    text = "%s is none of this run's, and has the name of a checkpoint of it: moved to %s"
    logger.warning(text, store.local_path(name), store.local_path(key))
    return key


def give_back(store: Store, key: str, name: str) -> None:
    """What made way comes back, and that is said."""
    store.rename(key, name)
    logger.warning("%s is back: the checkpoint in its place did not come about", store.local_path(name))
