"""Whether loaders can still read a checkpoint after a change: headers, indexes and JSON; nothing is unpickled."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec

from keepstep.formats.safetensors_header import LENGTH_BYTES, LONGEST, header_bytes, read_header
from keepstep.layout import NOT_JSON
from keepstep.model import FileEntry, Role, role_of
from keepstep.repository import Changes, Loaders

ZIP_START = b"PK\x03\x04"
"""How files of `torch.save` begin since torch 1.6; older ones can't be checked without loading them."""
CONFIGS = {"adapter_config.json": "adapter_model", "config.json": "model"}
"""Configs, and how the weights begin that nobody can load without them."""


def unsound(directory: Path, changes: Changes) -> list[str]:
    """Why no loader could read the checkpoint in `directory` with these changes, one sentence for each reason."""
    changed = [*(one.after for one in changes.rewritten), *(file for file in changes.added if not file.by)]
    found = [f"{file.path} {why}" for file in changed if (why := _what_is_wrong(directory / file.path, file.size))]
    found += _links(changes)
    return [*found, *_missing_parts(directory, changes)]


def _what_is_wrong(path: Path, size: int) -> str:
    if size == 0:
        return "is empty"
    try:
        match path.suffix:
            case ".safetensors":
                return _of_safetensors(path, size)
            case ".json":
                msgspec.json.decode(path.read_bytes())
            case ".pt" | ".pth" | ".bin":
                return _of_torch(path)
            case _:
                return ""
    except OSError as error:
        return f"can't be read: {error.strerror or error}"
    except NOT_JSON:
        return "is no JSON"
    return ""


def _of_safetensors(path: Path, size: int) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(LENGTH_BYTES)
            if len(start) < LENGTH_BYTES or header_bytes(start) > LONGEST:
                return "is no safetensors file"
            entries = read_header(start + file.read(header_bytes(start)))
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (*NOT_JSON, KeyError, TypeError, IndexError):
        return "is no safetensors file"
    due = LENGTH_BYTES + header_bytes(start) + end
    return "" if due == size else f"has {size:,} bytes, and its header speaks of {due:,}"


def _of_torch(path: Path) -> str:
    with path.open("rb") as file:
        if file.read(len(ZIP_START)) != ZIP_START:
            return ""
    try:
        with zipfile.ZipFile(path):
            return ""
    except (zipfile.BadZipFile, ValueError):
        return "is cut off: it begins as torch.save writes, and does not end so"


def _links(changes: Changes) -> Iterator[str]:
    """What is no regular file, or does not stand still, where a loader reads."""
    listed = {file.path for file in changes.before.files}
    loaders = Loaders(changes.after.files)
    for left in changes.left:
        if left.path in listed or loaders.passes_through(left.path) or loaders.why(left.path):
            yield f"{left.path} {left.why}"


def _missing_parts(directory: Path, changes: Changes) -> Iterator[str]:
    files = changes.after.files
    there = {file.path for file in files}
    for index in (file for file in files if file.path.endswith(".index.json") and not file.by):
        missing = sorted(_shards_of(directory / index.path) - there)
        if missing:
            yield f"{index.path} names {', '.join(missing)}, and that is not there"
    gone = {file.path for file in changes.removed}
    for config, weights in CONFIGS.items():
        if config in gone and any(_holds(file, weights) for file in files):
            yield f"{config} is gone, and nothing loads the weights without it"


def _holds(file: FileEntry, start: str) -> bool:
    return not file.by and role_of(file.path) is Role.WEIGHTS and file.path.startswith((start, f"pytorch_{start}"))


def _shards_of(index: Path) -> set[str]:
    try:
        fields: Any = msgspec.json.decode(index.read_bytes())
    except (OSError, *NOT_JSON):
        return set()  # said of the file itself
    found = cast("dict[str, Any]", fields).get("weight_map") if isinstance(fields, dict) else None
    return set(map(str, cast("dict[str, Any]", found).values())) if isinstance(found, dict) else set()
