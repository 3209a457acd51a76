"""A checkpoint on its way up: its files first, each byte compared with its digest, then its record, the commit."""

from __future__ import annotations

from collections.abc import Iterator

from keepstep.errors import CheckpointCorrupt, CheckpointNotFound, MirrorOfAnother, MirrorUnavailable
from keepstep.mirror import layout
from keepstep.mirror.jobs import side_by_side
from keepstep.mirror.layout import CommitName
from keepstep.mirror.objects import Garbled, ObjectStore
from keepstep.mirror.pace import OnBytes, Pace
from keepstep.mirror.progress import Progress
from keepstep.mirror.record import Record, encode
from keepstep.mirror.writer import Writer
from keepstep.model import CHUNK_BYTES, Checkpoint, FileEntry
from keepstep.repository import MANIFEST_NAME, digest_of, encode_manifest
from keepstep.stores import Store

JOBS = 4
"""Files that are sent at once."""
TRIES = 3
"""How often a file is sent whose bytes don't arrive as they were sent."""


def push(
    writer: Writer,
    store: Store,
    checkpoint: Checkpoint,
    place: str,
    progress: Progress,
    *,
    jobs: int = JOBS,
    pace: Pace | None = None,
    on_bytes: OnBytes | None = None,
) -> Record:
    """Put a committed checkpoint, whose files lie in the directory `place` of the run's store, into the mirror.

    Returns its record. One that was thinned for it has fewer files than lie there.

    Files that an earlier try has sent whole are not sent again: `progress` knows them. Raises CheckpointCorrupt where
    the bytes at home are not what was committed (nothing is committed then), CheckpointNotFound where it went away,
    MirrorOfAnother, MirrorUnavailable.
    """
    objects = writer.mirror.objects
    writer.check()
    manifest = encode_manifest(checkpoint)
    with progress.of(checkpoint.generation, digest_of(manifest)) as sent:
        home = layout.data_home(checkpoint.generation, sent.token)
        # What was sent may have been swept meanwhile.
        there = _sizes(objects, home) if sent.done else {}

        def send(file: FileEntry) -> None:
            if file.path in sent.done and there.get(f"{home}/{file.path}") == file.size:
                if on_bytes is not None:
                    on_bytes(file.size)
                return
            for left in reversed(range(TRIES)):
                pieces = _pieces(store, f"{place}/{file.path}", file, pace or Pace(), on_bytes)
                try:
                    objects.put(f"{home}/{file.path}", pieces, file.size)
                    break
                except Garbled:
                    if not left:
                        raise
            sent.add(file.path)

        side_by_side(send, sorted(checkpoint.files, key=lambda file: -file.size), jobs)
        objects.put(f"{home}/{MANIFEST_NAME}", [manifest], len(manifest))
        there = _sizes(objects, home)
        if lost := [file.path for file in checkpoint.files if there.get(f"{home}/{file.path}") != file.size]:
            raise MirrorUnavailable(f"{writer.mirror.url} has not kept what it took: {', '.join(lost)} of {home}")
        writer.check()
        name = CommitName(checkpoint.generation, writer.epoch, sent.token)
        if not objects.create(name.key, encode(checkpoint, home)):
            raise MirrorOfAnother(f"{writer.mirror.url}/{name.key} was written by another process")
    return Record(name, checkpoint, home)


def _sizes(objects: ObjectStore, home: str) -> dict[str, int]:
    return {item.key: item.size for item in objects.list(home)}


def _pieces(store: Store, path: str, file: FileEntry, pace: Pace, on_bytes: OnBytes | None) -> Iterator[bytes]:
    """A file's bytes in chunks, each compared with what was committed before it goes; each an object of its own."""
    digests, number, size = file.chunk_digests, 0, 0
    try:
        for view in store.chunks(path, size=CHUNK_BYTES):
            data = bytes(view)
            size += len(data)
            if digests is not None and (number >= len(digests) or digest_of(data) != digests[number]):
                raise _rotten(path, f"chunk {number + 1}")
            number += 1
            pace.wait(len(data))
            yield data
            if on_bytes is not None:
                on_bytes(len(data))
    except FileNotFoundError as error:
        raise CheckpointNotFound(f"{store.local_path(path)} went away") from error
    except OSError as error:
        raise _rotten(path, f"it can't be read: {error.strerror or error}") from error
    if size != file.size:
        raise _rotten(path, f"{size} of {file.size} bytes")


def _rotten(path: str, what: str) -> CheckpointCorrupt:
    return CheckpointCorrupt(
        f"{path} is not what was committed ({what}); it is not mirrored",
        hint="Look at it with: keepstep verify. The mirror has what it had.",
    )
