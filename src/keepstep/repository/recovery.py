"""What a start clears after a process that was killed: unfinished saves and removals, and names that may be lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import msgspec

from keepstep import layout
from keepstep.model import parse_name
from keepstep.stores import Entry, Store, is_leftover_of

_REPLACED_UNDER_LOCK = (
    "run.json",
    "owner.json",
    "rewind.json",
    "return.json",
    "swap.json",
    "links.json",
    "best",
    "latest",
)
"""Files and links of keepstep that only the holder of the run's lock replaces."""
_UNFINISHED = ((layout.STAGING, "an unfinished save"), (layout.TRASH, "an unfinished removal"))


def is_directory(store: Store, key: str) -> bool:
    """True for a directory; False where a link stands in its place."""
    stamp = store.stamp(key)
    return stamp is not None and stamp.kind == "directory"


def entries_of(store: Store, room: str) -> list[Entry]:
    """Entries of one of keepstep's own directories; none when a link stands in its place."""
    return store.list(room) if is_directory(store, layout.META) and is_directory(store, room) else []


def make_durable(store: Store) -> None:
    """Sync every directory that holds checkpoints: a killed process may have renamed and not synced.

    Where something was moved to must be synced before where it came from, else a power cut leaves it nowhere. That is
    aside first and the run last, but for what a restore was bringing back.
    """
    if store.exists(layout.RETURN):
        for key in (*_displaced(store), *_below(store, layout.PREVIOUS), ""):
            store.sync_directory(key)
    rooms = [entry.path for entry in entries_of(store, layout.META) if entry.kind == "directory"]
    for room in (f"{layout.META}/{name}" for name in rooms):
        for entry in entries_of(store, room):
            if entry.kind == "directory" and room not in (layout.STAGING, layout.TRASH):
                store.sync_directory(f"{room}/{entry.path}")
        store.sync_directory(room)
    if is_directory(store, layout.META):
        store.sync_directory(layout.META)
    store.sync_directory("")


class _Return(msgspec.Struct):
    timeline: int


def _displaced(store: Store) -> Iterator[str]:
    """Where a restore sets aside what it displaces; nothing where its intent can't be read: then it can't go on."""
    try:
        data = store.read(layout.RETURN, limit=layout.SMALL_FILE_LIMIT)
        home = f"{layout.TIMELINES}/{msgspec.json.decode(data, type=_Return).timeline}"
    except (OSError, *layout.NOT_JSON):
        return
    yield from (key for key in _below(store, home) if parse_name(key.rpartition("/")[2]) is None)
    if is_directory(store, home):
        yield home


def _below(store: Store, room: str) -> Iterator[str]:
    return (f"{room}/{entry.path}" for entry in entries_of(store, room) if entry.kind == "directory")


def clear_unfinished(store: Store) -> Iterator[str]:
    """Delete what was being written or deleted, and say what it was; what the disk refuses stays."""
    for room, what in _UNFINISHED:
        for entry in entries_of(store, room):
            with suppress(OSError):
                store.delete(f"{room}/{entry.path}")
                yield f"cleared {what}"


def clear_leftovers(store: Store) -> None:
    """Delete the temporary files of replacements that were cut off."""
    for entry in entries_of(store, layout.META):
        if any(is_leftover_of(entry.path, name) for name in _REPLACED_UNDER_LOCK):
            with suppress(OSError):
                store.delete(f"{layout.META}/{entry.path}")
