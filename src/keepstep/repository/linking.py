"""A second name for the files of a checkpoint, in a directory of their own."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import suppress

from msgspec.structs import replace

from keepstep.errors import StorageError
from keepstep.log import logger
from keepstep.model import Checkpoint, FileEntry
from keepstep.repository.loadable import Need, lack_of
from keepstep.repository.verification import OnBytes, added_to, file_digest, sealed
from keepstep.stores import Entry, Store

COPY_LIMIT = 2**20
"""Bytes that are copied at a time where there are no hard links."""


def link_weights(store: Store, source: str, target: str, checkpoint: Checkpoint) -> dict[str, FileEntry]:
    """The same with what stays of a checkpoint when it is thinned: its weights, and what others put beside them."""
    kept = [file for file in checkpoint.weights if lack_of(file) is not Need.NOTHING or _is_there(store, source, file)]
    added = added_to(store, source, checkpoint.files)
    taken = [_taken_over(store, source, entry) for entry in added if entry.kind == "file"]
    linked = link_files(store, source, target, (*kept, *taken))
    for entry in added:
        if entry.kind != "file":
            _link_as_it_is(store, source, target, entry)
    return linked


def _is_there(store: Store, source: str, file: FileEntry) -> bool:
    return store.exists(f"{source}/{file.path}")


def _taken_over(store: Store, source: str, entry: Entry) -> FileEntry:
    path = f"{source}/{entry.path}"
    store.sync_file(path)
    return replace(sealed(store, path, entry.path, entry.size), by="others")


def _link_as_it_is(store: Store, source: str, target: str, entry: Entry) -> None:
    """A further name for a symbolic link or a pipe: whose it is, he finds it again where that is possible."""
    store.make_directory(f"{target}/{entry.path}".rpartition("/")[0], durable=False)
    done = False
    with suppress(OSError):
        done = store.link(f"{source}/{entry.path}", f"{target}/{entry.path}")
    if not done:
        logger.warning("%s is a %s of somebody else's: it goes with what is thinned", entry.path, entry.kind)


def link_files(store: Store, source: str, target: str, files: Iterable[FileEntry]) -> dict[str, FileEntry]:
    """Make the directory `target` with these files of `source`; returns them by path: durable, of known digests.

    No byte is written where the file system has hard links. Raises OSError, and StorageError where a copy has other
    bytes than its entry says.
    """
    store.make_directory(target, durable=False)
    linked: dict[str, FileEntry] = {}
    copied = 0
    for file in files:
        parent = file.path.rpartition("/")[0]
        if parent:
            store.make_directory(f"{target}/{parent}", durable=False)
        if not store.link(f"{source}/{file.path}", f"{target}/{file.path}"):
            copied += file.size
            copy_file(store, f"{source}/{file.path}", store, f"{target}/{file.path}", file=file)
        linked[file.path] = file
    if copied:
        where = store.local_path(source)
        logger.warning("%s: the file system has no hard links, so %d bytes of weights were copied", where, copied)
    return linked


def copy_file(
    home: Store, source: str, store: Store, target: str, *, file: FileEntry, on_bytes: OnBytes | None = None
) -> None:
    """Write a file of one store anew in another, durably. Raises OSError, and StorageError where the bytes are not what
    its entry says; an entry without a digest says nothing of them.
    """
    for piece in home.chunks(source, size=COPY_LIMIT):
        store.append(target, bytes(piece), durable=False)
        if on_bytes is not None:
            on_bytes(len(piece))
    if not store.exists(target):
        store.write(target, b"")
    store.sync_file(target)
    if file.digest and file_digest(store, target) != file.digest:
        raise StorageError(
            f"{home.local_path(source)} has other bytes than were written (digest differs)",
            hint="Nothing was made of it. Inspect it with: keepstep verify",
            errno=errno.EIO,
        )
