"""A second name for the files of a checkpoint, in a directory of their own."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterable

from keepstep.errors import StorageError
from keepstep.model import FileEntry
from keepstep.repository.verification import file_digest
from keepstep.stores import Store

logger = logging.getLogger("keepstep")

COPY_LIMIT = 2**20
"""Bytes that are copied at a time where there are no hard links."""


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
            _copy(store, f"{source}/{file.path}", f"{target}/{file.path}", file)
        linked[file.path] = file
    if copied:
        where = store.local_path(source)
        logger.warning("%s: the file system has no hard links, so %d bytes of weights were copied", where, copied)
    return linked


def _copy(store: Store, source: str, target: str, file: FileEntry) -> None:
    for piece in store.chunks(source, size=COPY_LIMIT):
        store.append(target, bytes(piece), durable=False)
    if not store.exists(target):
        store.write(target, b"")
    store.sync_file(target)
    if file_digest(store, target) != file.digest:
        raise StorageError(
            f"{store.local_path(source)} has other bytes than were written (digest differs)",
            hint="It was not thinned. Inspect it with: keepstep verify",
            errno=errno.EIO,
        )
