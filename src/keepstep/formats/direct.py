"""Writes a layout as a durable file at disk speed, and its digests on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

from keepstep.formats.assembly import Assembly, Request
from keepstep.formats.digests import Digester
from keepstep.formats.layout import FileLayout
from keepstep.formats.memory import aligned_buffer, touch
from keepstep.formats.sink import FileSink

REQUEST_BYTES = 8 * 2**20
IN_FLIGHT = 3
OnBytes = Callable[[int], None]
OpenSink = Callable[[Path, int], FileSink]


class Written(NamedTuple):
    """A durable file: size in bytes, `xxh3-128:<hex>` of all of it and of each 16 MiB of it in order.

    `sources` has the 16 bytes of xxh3-128 of each of its sources, by name, where they were asked for.
    """

    size: int
    digest: str
    chunk_digests: tuple[str, ...]
    sources: Mapping[str, bytes]


class DirectWriter:
    """Writes files one after the other, keeping its bounce buffers and I/O threads in between.

    `request_bytes` is the size of one write (a multiple of 4096), `in_flight` how many are with the kernel at once.
    While they are, the calling thread assembles and hashes; one file is written at a time.
    """

    def __init__(
        self, *, request_bytes: int = REQUEST_BYTES, in_flight: int = IN_FLIGHT, open_sink: OpenSink = FileSink
    ) -> None:
        self._request_bytes = request_bytes
        self._in_flight = in_flight
        self._open_sink = open_sink
        self._bounces = [aligned_buffer(request_bytes, huge=True) for _ in range(in_flight + 1)]
        for bounce in self._bounces:
            touch(bounce)
        self._pool = ThreadPoolExecutor(in_flight, "keepstep-io")

    def __enter__(self) -> DirectWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the I/O threads."""
        self._pool.shutdown()

    def write(
        self,
        path: Path,
        layout: FileLayout,
        sources: Mapping[str, memoryview],
        on_bytes: OnBytes | None = None,
        *,
        digest_sources: bool = False,
    ) -> Written:
        """Create `path`, durable but for its directory entry. `on_bytes` hears of bytes when they were written.

        `digest_sources` asks for a digest of each source, which costs a third pass over bytes that are in the cache.

        `sources` has the memory of each of the layout's sources, unchanged until this returns. Raises ValueError
        for a source that is missing or has another length, OSError with the file's name when a write fails: the
        part that was written is left to the caller.
        """
        layout.check_sources(sources)
        sink = self._open_sink(path, layout.size)
        digester = Digester(layout.spans if digest_sources else ())
        try:
            self._write_all(sink, Assembly(layout, sources, sink.alignment), layout.size, digester, on_bytes)
            sink.finish()
        except BaseException:
            sink.abandon()
            raise
        return Written(layout.size, *digester.finish(), digester.span_digests)

    def _write_all(
        self, sink: FileSink, assembly: Assembly, size: int, digester: Digester, on_bytes: OnBytes | None
    ) -> None:
        waiting: deque[tuple[Future[None], int]] = deque()
        try:
            for number, offset in enumerate(range(0, size, self._request_bytes)):
                if len(waiting) == len(self._bounces):
                    _await(waiting, on_bytes)
                length = min(self._request_bytes, size - offset)
                request = assembly.request(offset, length, self._bounces[number % len(self._bounces)])
                waiting.append((self._pool.submit(sink.write, request.buffers, offset), length))
                _digest(request, digester)
            while waiting:
                _await(waiting, on_bytes)
        finally:
            # Nothing may be in flight when this returns: the memory belongs to the caller again.
            for future, _ in waiting:
                future.cancel()
            wait([future for future, _ in waiting])


def write_file(
    path: Path, layout: FileLayout, sources: Mapping[str, memoryview], on_bytes: OnBytes | None = None
) -> Written:
    """One file with a writer of its own; see `DirectWriter.write`."""
    with DirectWriter() as writer:
        return writer.write(path, layout, sources, on_bytes)


def _await(waiting: deque[tuple[Future[None], int]], on_bytes: OnBytes | None) -> None:
    future, length = waiting.popleft()
    future.result()
    if on_bytes is not None:
        on_bytes(length)


def _digest(request: Request, digester: Digester) -> None:
    left = request.length
    for buffer in request.buffers:
        digester.update(buffer[:left])
        left -= min(left, buffer.nbytes)
