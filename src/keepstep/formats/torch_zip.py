"""The zip container of torch, as regions: written by torch itself with holes where storages go.

Format: APPNOTE 6.3 (local headers, data descriptors, central directory) and PyTorch's `inline_container.cc`. torch
writes zero for the CRC-32 of a hole; `TorchZip` has them filled in, and the serialization id that depends on them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from msgspec.structs import replace

from keepstep.formats.digests import crc32
from keepstep.formats.layout import Checksums, FileLayout, LayoutBuilder

DESCRIPTOR = b"PK\x07\x08"
ENTRY = b"PK\x01\x02"
ENTRY_HEAD = struct.Struct("<4sHHHHHHIIIHHHHHII")
LOCAL_HEAD = 30
CRC_IN_DESCRIPTOR = 4
CRC_IN_ENTRY = 16
ID_RECORD = "/.data/serialization_id"
ID_DIGITS = 20
_WORD = (1 << 64) - 1


class HoleySink:
    """A file object for `torch.save` under `skip_data()`: keeps what is written, and the length of what is skipped."""

    def __init__(self) -> None:
        self.parts: list[bytes | int] = []
        self._position = 0
        self._open: list[bytes] = []

    def write(self, data: memoryview | bytes) -> int:
        piece = bytes(data)
        self._open.append(piece)
        self._position += len(piece)
        return len(piece)

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence != 1 or offset < 0:
            raise OSError("torch.save was expected to skip forwards only")
        self._close()
        self.parts.append(offset)
        self._position += offset
        return self._position

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        self._close()

    def _close(self) -> None:
        if self._open:
            self.parts.append(b"".join(self._open))
            self._open = []


class Record(NamedTuple):
    """One entry of the central directory: its name, size in bytes, CRC-32, and where that CRC stands in the tail."""

    name: str
    size: int
    crc: int
    crc_at: int


class TorchZip:
    """A torch zip whose storages are holes, from what a `HoleySink` took; sources are called `data/<key>`.

    Raises ValueError, IndexError or struct.error when the parts are no such zip.
    """

    def __init__(self, parts: Sequence[bytes | int]) -> None:
        literals = [part for part in parts[::2] if isinstance(part, bytes)]
        holes = [part for part in parts[1::2] if isinstance(part, int)]
        if len(literals) + len(holes) != len(parts) or len(literals) != len(holes) + 1:
            raise ValueError("torch wrote a file whose holes don't alternate with bytes")
        self._head, self._gaps = literals[0], literals[1:]
        self._tail = _Tail(literals[-1])
        self._filled = [record for record in self._tail.storages if record.size]
        if [record.size for record in self._filled] != holes:
            raise ValueError("the holes of torch's file are not its storages")
        if any(gap[: len(DESCRIPTOR)] != DESCRIPTOR for gap in self._gaps):
            raise ValueError("no data descriptor follows a storage in torch's file")
        name_bytes, extra_bytes = struct.unpack_from("<HH", self._head, LOCAL_HEAD - 4)
        start = LOCAL_HEAD + name_bytes + extra_bytes
        self._pickle = slice(start, start + self._tail.records[0].size)
        self.layout = self._lay_out()

    @property
    def pickle(self) -> bytes:
        """The record `data.pkl`."""
        return self._head[self._pickle]

    def with_pickle(self, data: bytes) -> FileLayout:
        """The layout with another `data.pkl` of the same length; cheap, all but the first and last piece are shared."""
        record = self._tail.records[0]
        if len(data) != record.size or not self._filled:
            raise ValueError("only a pickle of the same length fits, and only in front of storages")
        crc = crc32(data, 0)
        head = bytearray(self._head)
        head[self._pickle] = data
        struct.pack_into("<I", head, self._pickle.stop + CRC_IN_DESCRIPTOR, crc)
        first, *middle, last = self.layout.pieces
        finish = partial(self._tail.finish, self._filled, {record.name: crc})
        pieces = (replace(first, literal=bytes(head)), *middle, replace(last, late=finish))
        return FileLayout(pieces, self.layout.size, self.layout.checksummed)

    def _lay_out(self) -> FileLayout:
        builder = LayoutBuilder()
        builder.literal(self._head)
        for record, gap in zip(self._filled, self._gaps, strict=True):
            name = _short(record.name)
            builder.source(name, record.size)
            builder.late(len(gap), partial(_descriptor, gap, name))
        layout = builder.build()
        if not self._filled:
            return layout
        last = replace(layout.pieces[-1], late=partial(self._tail.finish, self._filled, {}))
        return FileLayout((*layout.pieces[:-1], last), layout.size, layout.checksummed)


def _short(name: str) -> str:
    return name.partition("/")[2]


def _descriptor(template: bytes, source: str, checksums: Checksums) -> bytes:
    return DESCRIPTOR + struct.pack("<I", checksums[source]) + template[CRC_IN_DESCRIPTOR + 4 :]


class _Tail:
    """The bytes after the last storage: its descriptor, closing records, the central directory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.records = list(_records(data))
        self.storages = [record for record in self.records if _short(record.name).startswith("data/")]

    def finish(self, filled: Sequence[Record], changed: Mapping[str, int], checksums: Checksums) -> bytes:
        """The same bytes with the right CRC-32 of every storage, and the serialization id that follows from them.

        `changed` has the CRC-32 of records that are no storages, by full name.
        """
        data = bytearray(self._data)
        by_name = {record.name: checksums[_short(record.name)] for record in filled} | dict(changed)
        for record in self.records:
            if record.name in by_name:
                struct.pack_into("<I", data, record.crc_at, by_name[record.name])
        struct.pack_into("<I", data, CRC_IN_DESCRIPTOR, by_name[filled[-1].name])
        self._identify(data, by_name)
        return bytes(data)

    def _identify(self, data: bytearray, by_name: Mapping[str, int]) -> None:
        record = self.records[-1]
        old = b"%020d" % combined_crc(self.records[:-1], {})
        at = bytes(data).find(old)
        if not record.name.endswith(ID_RECORD) or at < ID_DIGITS:
            return
        data[at : at + ID_DIGITS] = b"%020d" % combined_crc(self.records[:-1], by_name)
        value = crc32(bytes(data[at - ID_DIGITS : at + ID_DIGITS]), 0)
        struct.pack_into("<I", data, at + ID_DIGITS + CRC_IN_DESCRIPTOR, value)
        struct.pack_into("<I", data, record.crc_at, value)


def combined_crc(records: Sequence[Record], known: Mapping[str, int]) -> int:
    """The half of torch's serialization id that depends on content: c10's `hash_combine` over non-empty records."""
    seed = 0
    for record in records:
        if record.size:
            value = known.get(record.name, record.crc)
            seed ^= (value + 0x9E3779B9 + (seed << 6) + (seed >> 2)) & _WORD
    return seed


def _records(tail: bytes) -> list[Record]:
    start = _directory_start(tail)
    records: list[Record] = []
    while tail[start : start + 4] == ENTRY:
        fields = ENTRY_HEAD.unpack_from(tail, start)
        crc, size, name_bytes, extra_bytes, comment_bytes = fields[7], fields[9], *fields[10:13]
        name_at = start + ENTRY_HEAD.size
        name = tail[name_at : name_at + name_bytes].decode()
        extra = tail[name_at + name_bytes : name_at + name_bytes + extra_bytes]
        records.append(Record(name, _long_size(extra) if size == 0xFFFFFFFF else size, crc, start + CRC_IN_ENTRY))
        start = name_at + name_bytes + extra_bytes + comment_bytes
    return records


def _directory_start(tail: bytes) -> int:
    end = tail.rfind(b"PK\x05\x06")
    wide = tail.rfind(b"PK\x06\x06", 0, end)
    if wide >= 0:
        return wide - struct.unpack_from("<Q", tail, wide + 40)[0]
    return end - struct.unpack_from("<I", tail, end + 12)[0]


def _long_size(extra: bytes) -> int:
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        if kind == 1:
            return struct.unpack_from("<Q", extra, 4)[0]
        extra = extra[4 + length :]
    raise ValueError("a storage of more than 4 GiB has no 64-bit size in torch's file")
