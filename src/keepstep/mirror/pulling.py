"""A checkpoint on its way down: ranges side by side, each compared with its digest before it is written."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from keepstep.errors import CheckpointCorrupt, StorageError
from keepstep.mirror.jobs import side_by_side
from keepstep.mirror.mirror import Mirror
from keepstep.mirror.pace import OnBytes
from keepstep.mirror.record import Record
from keepstep.model import CHUNK_BYTES, FileEntry
from keepstep.repository import digest_of
from keepstep.stores import write_all

JOBS = 8
TRIES = 3
"""How often a range is asked for whose bytes were wrong, before the checkpoint is given up."""
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class _Range(NamedTuple):
    file: FileEntry
    number: int
    digest: str

    @property
    def start(self) -> int:
        return self.number * CHUNK_BYTES

    @property
    def length(self) -> int:
        return min(CHUNK_BYTES, self.file.size - self.start)


def pull(
    mirror: Mirror, record: Record, directory: Path, *, jobs: int = JOBS, on_bytes: OnBytes | None = None
) -> dict[str, FileEntry]:
    """Bring a commit's files into a directory that is made; returns them by path, durable and compared.

    Memory is 16 MiB a job. Raises CheckpointCorrupt where the mirror's bytes stay wrong or are gone, MirrorUnavailable,
    StorageError where the disk here fails.
    """
    with ExitStack() as open_files:
        descriptors = _files(record, directory, open_files)

        def bring(one: _Range) -> None:
            data = _checked(mirror, record, one)
            with _on_the_disk(record, directory):
                write_all(descriptors[one.file.path], data, one.start)
            if on_bytes is not None:
                on_bytes(len(data))

        side_by_side(bring, _ranges(record), jobs)
        with _on_the_disk(record, directory):
            for descriptor in descriptors.values():
                os.fsync(descriptor)
    return {file.path: file for file in record.checkpoint.files}


def check(mirror: Mirror, record: Record, *, jobs: int = JOBS, on_bytes: OnBytes | None = None) -> tuple[str, ...]:
    """Read a commit's files back and compare every byte; returns what is wrong, in words. Raises MirrorUnavailable."""

    def problem(one: _Range) -> str:
        try:
            data = _checked(mirror, record, one)
        except CheckpointCorrupt as error:
            return error.message
        if on_bytes is not None:
            on_bytes(len(data))
        return ""

    with ThreadPoolExecutor(max(1, jobs), "keepstep-mirror") as pool:
        return tuple(filter(None, pool.map(problem, _ranges(record))))


def _ranges(record: Record) -> Iterator[_Range]:
    for file in record.checkpoint.files:
        digests = file.chunk_digests
        if digests is None:
            raise CheckpointCorrupt(f"{record.key}: no digests of the parts of {file.path} are known")
        yield from (_Range(file, number, digest) for number, digest in enumerate(digests))


def _checked(mirror: Mirror, record: Record, one: _Range) -> bytes:
    key = f"{record.home}/{one.file.path}"
    for _ in range(TRIES):
        try:
            data = mirror.objects.read_range(key, one.start, one.length)
        except FileNotFoundError:
            raise CheckpointCorrupt(f"{mirror.url}/{key} is gone, though committed") from None
        if len(data) == one.length and digest_of(data) == one.digest:
            return data
    raise CheckpointCorrupt(
        f"{mirror.url}/{key} has other bytes than were committed (part {one.number + 1}, asked for {TRIES} times)"
    )


def _files(record: Record, directory: Path, open_files: ExitStack) -> dict[str, int]:
    """An empty file of its full size for each of the checkpoint's, open."""
    found: dict[str, int] = {}
    with _on_the_disk(record, directory):
        directory.mkdir(parents=True)
        for file in record.checkpoint.files:
            path = directory / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = found[file.path] = os.open(path, _NEW, 0o666)
            open_files.callback(os.close, descriptor)
            if file.size:
                os.posix_fallocate(descriptor, 0, file.size)
    return found


@contextmanager
def _on_the_disk(record: Record, directory: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"{directory} can't take step {record.checkpoint.step}: {error.strerror or error}",
            hint="Free space or give another directory; the mirror is as it was.",
            errno=error.errno,
        ) from error
