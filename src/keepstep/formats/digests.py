"""Digests of a file on its way: xxh3-128 of the whole and of each chunk, and the CRC-32 that zip wants."""

from __future__ import annotations

import importlib
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import xxhash

from keepstep.model import CHUNK_BYTES

ALGORITHM = "xxh3-128"
SLICE = 256 * 1024
"""Bytes that are hashed twice in a row (file and chunk), few enough that the second pass finds them in the cache."""


def named(hexadecimal: str) -> str:
    """`xxh3-128:<hex>`, as the manifest has it."""
    return f"{ALGORITHM}:{hexadecimal}"


def digest_of(data: memoryview | bytes) -> str:
    """`xxh3-128:<hex>` of some bytes."""
    return named(xxhash.xxh3_128_hexdigest(data))


def _fastest_crc32() -> Callable[[Any, int], int]:
    try:
        return importlib.import_module("isal.isal_zlib").crc32
    except ImportError:
        return zlib.crc32


crc32 = _fastest_crc32()
"""CRC-32 (ISO-HDLC, as zip has it) of a buffer, continued from a value: by isal where it is installed, else zlib."""


class Span(NamedTuple):
    """A part of a file that has a digest of its own: its name, its first byte, and the one behind its last."""

    name: str
    start: int
    end: int


class Digester:
    """Digests of a file whose bytes pass in file order, and of `spans` of it, which don't overlap, in file order."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._spans = SpanDigester(spans)
        self._file = xxhash.xxh3_128()
        self._chunk = xxhash.xxh3_128()
        self._chunk_left = CHUNK_BYTES
        self._chunks: list[str] = []

    def update(self, data: memoryview) -> None:
        """The file's next bytes."""
        position = 0
        while position < data.nbytes:
            step = min(SLICE, self._chunk_left, data.nbytes - position)
            part = data[position : position + step]
            self._file.update(part)
            self._chunk.update(part)
            self._spans.update(part)
            position += step
            self._chunk_left -= step
            if self._chunk_left == 0:
                self._end_chunk()

    @property
    def span_digests(self) -> dict[str, bytes]:
        """The 16 bytes of xxh3-128 of each span that has passed, by name."""
        return self._spans.digests

    def finish(self) -> tuple[str, tuple[str, ...]]:
        """Digest of the file and of its chunks in order; an empty file has no chunks."""
        if self._chunk_left < CHUNK_BYTES:
            self._end_chunk()
        return named(self._file.hexdigest()), tuple(self._chunks)

    def _end_chunk(self) -> None:
        self._chunks.append(named(self._chunk.hexdigest()))
        self._chunk.reset()
        self._chunk_left = CHUNK_BYTES


class SpanDigester:
    """xxh3-128 of spans of a file whose bytes pass in file order."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._waiting = deque(spans)
        self._position = 0
        self._hash = xxhash.xxh3_128()
        self.digests: dict[str, bytes] = {}
        """16 bytes for each span that has passed, by name."""

    def update(self, data: memoryview) -> None:
        """The file's next bytes."""
        start, self._position = self._position, self._position + data.nbytes
        while self._waiting and self._waiting[0].start < self._position:
            span = self._waiting[0]
            part = data[max(0, span.start - start) : span.end - start]
            if span.start >= start and span.end <= self._position:
                self.digests[span.name] = xxhash.xxh3_128_digest(part)
            else:
                self._hash.update(part)
                if span.end > self._position:
                    return
                self.digests[span.name] = self._hash.digest()
                self._hash.reset()
            self._waiting.popleft()
