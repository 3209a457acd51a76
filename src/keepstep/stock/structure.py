"""What is wrong with one file by its structure alone: headers, directories of archives, ends. Nothing is unpickled."""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from keepstep.formats.safetensors_header import BITS, LENGTH_BYTES, LONGEST, RESERVED, header_bytes

OnBytes = Callable[[int], None]
LARGEST_JSON = 256 * 2**20
"""Bytes of a JSON file that is read whole; a larger one, some ten million tokens, is only looked at by its ends."""
OF_TORCH = (".pt", ".bin", ".pth", ".pkl", ".ckpt")
"""Ends of names that promise an archive of torch, or a pickle."""
_LOCAL = struct.Struct("<4s22xHH")
"""A local header of an archive: signature, lengths of name and extra field."""
_PIECE = 2**20
_BROKEN = (zipfile.BadZipFile, EOFError, ValueError, struct.error, zlib.error, NotImplementedError, RuntimeError)
"""What zipfile raises of bytes that are no archive, or one that it can't read."""


def flaw_of(path: Path, *, deep: bool = False, on_bytes: OnBytes | None = None) -> str:
    """What is wrong with a file by the structure that its name promises; empty where nothing is, or the name promises
    none.

    `deep` reads every record of an archive of torch against the checksum in it. Files of safetensors have none. Raises
    OSError.
    """
    name = path.name
    size = os.path.getsize(path)
    if name.endswith(".safetensors"):
        return _safetensors(path, size)
    if name.endswith(".json"):
        return _json(path, size)
    return _torch(path, size, on_bytes, deep) if name.endswith(OF_TORCH) else ""


def _safetensors(path: Path, size: int) -> str:
    with open(path, "rb") as file:
        start = file.read(LENGTH_BYTES)
        if len(start) < LENGTH_BYTES:
            return f"is cut: {size} bytes are no header"
        length = header_bytes(start)
        if length > LONGEST or LENGTH_BYTES + length > size:
            return f"is cut: its header would have {length:,} bytes, the file has {size:,}"
        try:
            header: Any = json.loads(file.read(length))
        except (ValueError, RecursionError):
            return "has no readable header"
    try:
        end = _end_of(cast("dict[str, Any]", header))
    except (AttributeError, KeyError, TypeError, ValueError):
        return "has a header that names no tensors"
    if isinstance(end, str):
        return end
    due = LENGTH_BYTES + length + end
    return "" if size == due else f"has {size:,} bytes, its header says {due:,}"


def _end_of(header: dict[str, Any]) -> int | str:
    """Bytes of the tensors' data, or what is wrong with their places."""
    spans: list[tuple[int, int]] = []
    for name, entry in header.items():
        if name == RESERVED:
            continue
        begin, end = entry["data_offsets"]
        elements = 1
        for extent in entry["shape"]:
            elements *= extent
        bits = BITS.get(entry["dtype"])
        if bits is not None and (end - begin) * 8 != elements * bits:
            return f"gives {name} a place that does not fit its shape"
        spans.append((begin, end))
    reached = 0
    for begin, end in sorted(spans):
        if begin != reached:
            return "has a hole between tensors, or two in one place"
        reached = end
    return reached


def _json(path: Path, size: int) -> str:
    if size > LARGEST_JSON:
        return ""
    with open(path, "rb") as file:
        data = file.read()
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return "is empty" if not data.strip() else "is no whole JSON"
    return ""


def _torch(path: Path, size: int, on_bytes: OnBytes | None, deep: bool) -> str:
    """A file of `torch.save`, or a bare pickle."""
    with open(path, "rb") as file:
        start = file.read(4)
        if start == b"PK\x03\x04":
            return _archive(path, on_bytes, deep)
        if start[:1] != b"\x80":
            return "is empty" if not size else "is neither an archive nor a pickle"
        file.seek(-1, os.SEEK_END)
        # The old format of torch ends in raw numbers: there the end says nothing.
        ends = file.read(1) == b"." or path.suffix != ".pkl"
        return "" if ends else "is a pickle without an end"


def _archive(path: Path, on_bytes: OnBytes | None, deep: bool) -> str:
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            records = archive.infolist()
            for record in records:
                file.seek(record.header_offset)
                signature, name, extra = _LOCAL.unpack(file.read(_LOCAL.size))
                end = record.header_offset + _LOCAL.size + name + extra + record.compress_size
                if signature != b"PK\x03\x04" or end > archive.start_dir:
                    return f"has no whole record {record.filename}"
            if not any(record.filename.endswith("data.pkl") for record in records):
                return "" if path.suffix == ".pkl" else "is an archive without data.pkl"
            return _checksums(archive, records, on_bytes) if deep else ""
    except _BROKEN as error:
        return f"is no whole archive: {error}"


def _checksums(archive: zipfile.ZipFile, records: list[zipfile.ZipInfo], on_bytes: OnBytes | None) -> str:
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED:
            continue  # torch compresses nothing; what is packed may be endless
        try:
            with archive.open(record) as file:
                while piece := file.read(_PIECE):
                    if on_bytes is not None:
                        on_bytes(len(piece))
        except _BROKEN:
            return f"has other bytes in {record.filename} than were written (its checksum differs)"
    return ""
