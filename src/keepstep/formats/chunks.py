"""A file read once in chunks by a few threads, each chunk checked against its digest, into given memory."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

from keepstep.errors import CheckpointCorrupt
from keepstep.formats.digests import named
from keepstep.formats.kernel import UNSUPPORTED, Alignment, Kernel
from keepstep.formats.memory import address, after, aligned_buffer, copy
from keepstep.formats.targets import Target, Targets
from keepstep.model import CHUNK_BYTES

THREADS = 2
BUFFERED_READ = 2 * 2**20
"""Bytes read through the page cache at once, then hashed while the processor has them."""
DIRECT_READ = 8 * 2**20
"""Bytes of one direct read; divides a chunk."""
PROBES = 16
OnBytes = Callable[[int], None]


class ChunkCorrupt(CheckpointCorrupt):
    """A chunk's bytes are not those that were written.

    `path` and `chunk` (number, from 0; -1: the size) say which, `what` is the message without the path.
    """

    def __init__(self, path: Path, chunk: int, what: str) -> None:
        super().__init__(f"{path}: {what}")
        self.path = path
        self.chunk = chunk
        self.what = what


class ChunkedFile:
    """An open file and the digests of its 16 MiB chunks (None: nothing is checked); a context manager.

    Reads directly where the file system takes it and the file is not in the page cache already; `direct` decides
    otherwise. Raises OSError when it can't be opened, is a link or no regular file, ChunkCorrupt when its size is
    not `size` or has another number of chunks.
    """

    def __init__(
        self,
        path: Path,
        chunk_digests: Sequence[str] | None,
        *,
        size: int | None = None,
        direct: bool | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        self.path = path
        self._digests = chunk_digests
        self._kernel = kernel or Kernel()
        self._scratch = threading.local()
        self._mapped: memoryview | None = None
        # O_NONBLOCK: a pipe planted in a checkpoint must not hang the reader.
        self._fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.size = self._checked_size(size)
            self._alignment = self._decide(direct)
        except BaseException:
            os.close(self._fd)
            raise
        self.chunks = range(-(-self.size // CHUNK_BYTES))

    def __enter__(self) -> ChunkedFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    @property
    def direct(self) -> bool:
        """Whether reads go around the page cache."""
        return self._alignment is not None

    @property
    def is_cached(self) -> bool:
        """Whether all of a few pages are known to be in the page cache."""
        return not self.direct and self._cached_pages() == PROBES

    def map(self) -> memoryview:
        """The file's bytes where they lie in the page cache, writable, in pages that become the process's own when it
        writes to them; `read` without targets checks them there. Raises OSError, ValueError for an empty file.
        """
        self._mapped = memoryview(mmap.mmap(self._fd, self.size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE))
        return self._mapped

    def read(
        self,
        targets: Sequence[Target],
        chunks: Sequence[int] | None = None,
        *,
        threads: int = THREADS,
        on_bytes: OnBytes | None = None,
    ) -> None:
        """Read chunks (None: all), place what has a target (sorted, not overlapping), check everything.

        Memory beyond the targets: 8 MiB per thread. Raises ChunkCorrupt for the first chunk found wrong, OSError
        with the file's name; what the targets hold is then of no use.
        """
        placed = Targets(targets)
        with ThreadPoolExecutor(threads, "keepstep-read") as pool:
            pending = [
                pool.submit(self._read_chunk, chunk, placed) for chunk in (self.chunks if chunks is None else chunks)
            ]
            try:
                for future in pending:
                    length = future.result()
                    if on_bytes is not None:
                        on_bytes(length)
            except BaseException as error:
                pool.shutdown(wait=True, cancel_futures=True)
                if isinstance(error, OSError) and error.filename is None:
                    error.filename = str(self.path)
                raise

    def _checked_size(self, expected: int | None) -> int:
        found = os.fstat(self._fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(self.path))
        if expected is not None and found.st_size != expected:
            raise ChunkCorrupt(self.path, -1, f"has {found.st_size:,} bytes instead of {expected:,}")
        count = -(-found.st_size // CHUNK_BYTES)
        if self._digests is not None and len(self._digests) != count:
            what = f"has {found.st_size:,} bytes in {count} chunks, but {len(self._digests)} chunks were written"
            raise ChunkCorrupt(self.path, -1, what)
        return found.st_size

    def _decide(self, direct: bool | None) -> Alignment | None:
        if direct is None:
            cached = self._cached_pages()
            direct = cached is not None and cached <= PROBES // 2
        if not direct:
            return None
        alignment = self._kernel.alignment(self._fd)
        return alignment if alignment is not None and self._kernel.set_direct(self._fd, True) else None

    def _cached_pages(self) -> int | None:
        """How many of a few pages, evenly spread, can be read without the disk; None where that can't be told."""
        page, flag = bytearray(1), getattr(os, "RWF_NOWAIT", None)
        if flag is None:
            return None
        hits = 0
        for probe in range(PROBES):
            try:
                hits += os.preadv(self._fd, [page], self.size * probe // PROBES, flag)
            except BlockingIOError:
                continue
            except OSError:
                return None
        return hits

    def _read_chunk(self, chunk: int, targets: Targets) -> int:
        start = chunk * CHUNK_BYTES
        end = min(start + CHUNK_BYTES, self.size)
        state = xxhash.xxh3_128()
        step = DIRECT_READ if self.direct else BUFFERED_READ
        for position in range(start, end, step):
            for view in self._read_span(position, min(position + step, end), targets):
                if self._digests is not None:
                    state.update(view)
        if self._digests is not None and named(state.hexdigest()) != self._digests[chunk]:
            what = f"has other bytes than were written (chunk {chunk}, bytes {start:,} to {end:,}: digest differs)"
            raise ChunkCorrupt(self.path, chunk, what)
        return end - start

    def _read_span(self, start: int, end: int, targets: Targets) -> list[memoryview]:
        if self._mapped is not None:
            return [self._mapped[start:end]]
        scratch, alignment = self._own_scratch(), self._alignment
        views = targets.views(start, end, scratch)
        if alignment is None or (len(views) == 1 and _is_aligned(views[0], alignment)):
            self._fill(views, start)
            return views
        whole = scratch[: -(-(end - start) // alignment.file) * alignment.file]
        self._fill([whole], start, enough=end - start)
        position = 0
        for view in views:
            if view.obj is not scratch.obj:
                copy(view, whole[position : position + view.nbytes])
            position += view.nbytes
        return [whole[: end - start]]

    def _fill(self, views: Sequence[memoryview], offset: int, enough: int | None = None) -> None:
        limit = os.sysconf("SC_IOV_MAX")
        wanted = sum(view.nbytes for view in views) if enough is None else enough
        left, end = list(views), offset + wanted
        while offset < end:
            try:
                count = os.preadv(self._fd, left[:limit], offset)
            except OSError as error:
                if not self.direct or error.errno not in UNSUPPORTED:
                    raise
                self._kernel.set_direct(self._fd, False)
                self._alignment = None
                continue
            if count == 0:
                raise ChunkCorrupt(self.path, offset // CHUNK_BYTES, f"ends at byte {offset:,}, too early")
            offset += count
            left = after(left, count)

    def _own_scratch(self) -> memoryview:
        if not hasattr(self._scratch, "view"):
            self._scratch.view = aligned_buffer(DIRECT_READ, huge=True)
        return self._scratch.view


def _is_aligned(view: memoryview, alignment: Alignment) -> bool:
    start = address(view)
    return start != 0 and start % alignment.memory == 0 and view.nbytes % alignment.file == 0
