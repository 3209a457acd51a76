"""Files copied out of a checkpoint: no links, so that nothing done to the copy reaches the checkpoint."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from keepstep.errors import CheckpointCorrupt, CheckpointNotFound
from keepstep.model import FileEntry
from keepstep.repository import OnBytes, file_digest
from keepstep.stores import LocalStore

PIECE_BYTES = 16 * 2**20
_NO_COPYING = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY}


def copy_files(source: Path, entries: Sequence[FileEntry], target: Path, on_bytes: OnBytes) -> tuple[FileEntry, ...]:
    """Copy files by their entries, and read each copy back against its digest; returns them as they lie there.

    Raises CheckpointNotFound where the checkpoint went away meanwhile, CheckpointCorrupt where a copy differs.
    """
    store, copied = LocalStore(target), list[FileEntry]()
    for entry in entries:
        path = target / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _copy(source / entry.path, path, on_bytes)
        except FileNotFoundError as error:
            raise CheckpointNotFound(
                f"{source} went away while it was exported",
                hint="Its run moved or removed it. Pin it first (keepstep pin RUN REF), or export another one.",
            ) from error
        # What is not managed has no digest: the copy is compared with what lies there.
        digest = file_digest(store, entry.path)
        if digest != (entry.digest or file_digest(LocalStore(source), entry.path)):
            raise CheckpointCorrupt(f"{entry.path} changed while it was copied", hint="Is the run's disk failing?")
        copied.append(FileEntry(entry.path, path.stat().st_size, digest))
    return tuple(copied)


def _copy(source: Path, target: Path, on_bytes: OnBytes) -> None:
    with open(source, "rb", buffering=0) as reading, open(target, "xb", buffering=0) as writing:
        try:
            while count := os.copy_file_range(reading.fileno(), writing.fileno(), PIECE_BYTES):
                on_bytes(count)
            if reading.read(1) == b"":
                return
            reading.seek(-1, os.SEEK_CUR)
        except OSError as error:
            if error.errno not in _NO_COPYING:
                raise
            reading.seek(0)
            writing.seek(0)
        while piece := reading.read(PIECE_BYTES):
            view = memoryview(piece)
            while view:
                view = view[writing.write(view) :]
            on_bytes(len(piece))
