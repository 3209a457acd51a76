"""`keepstep_export.json`: what an export is made of, and the digest of each file that it wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepstep.layout import NOT_JSON
from keepstep.model import FileEntry
from keepstep.repository import file_digest
from keepstep.stores import LocalStore

MARKER = "keepstep_export.json"
FORMAT = 1
SIZE_LIMIT = 64 * 2**20
"""Bytes above which a marker is not read."""


@dataclass(frozen=True, slots=True)
class Marker:
    """The files that an export wrote; the marker itself is not among them."""

    files: tuple[FileEntry, ...]

    def strangers(self, directory: Path) -> list[str]:
        """Paths below the directory that are not, byte for byte, what was written."""
        known = {entry.path: entry for entry in self.files}
        store = LocalStore(directory)
        found: list[str] = []
        for entry in store.walk(""):
            if entry.path == MARKER or entry.kind == "directory":
                continue
            written = known.get(entry.path)
            same = written is not None and entry.kind == "file" and entry.size == written.size
            if not same or written is None or file_digest(store, entry.path) != written.digest:
                found.append(entry.path)
        return sorted(found)


def seal(directory: Path, paths: Sequence[str]) -> tuple[FileEntry, ...]:
    """Entries of files below a directory, each read once."""
    store = LocalStore(directory)
    return tuple(FileEntry(path, os.path.getsize(directory / path), file_digest(store, path)) for path in paths)


def files_below(directory: Path) -> list[str]:
    """Paths of all files below a directory, relative to it and in order."""
    return sorted(entry.path for entry in LocalStore(directory).walk("") if entry.kind == "file")


def write_marker(directory: Path, facts: dict[str, Any], files: Sequence[FileEntry]) -> None:
    """Put the marker into a directory: `facts` first, then the files."""
    listed = [{"path": entry.path, "size_bytes": entry.size, "digest": entry.digest} for entry in files]
    text = json.dumps({"format": FORMAT, **facts, "files": listed}, indent=1, allow_nan=False)
    (directory / MARKER).write_text(text + "\n", encoding="utf-8")


def read_marker(directory: Path) -> Marker | None:
    """The marker of an export, None where there is none, or none that can be read."""
    path = directory / MARKER
    try:
        if path.is_symlink() or os.path.getsize(path) > SIZE_LIMIT:
            return None
        found = json.loads(path.read_bytes())
        files = [FileEntry(str(f["path"]), int(f["size_bytes"]), str(f["digest"])) for f in found["files"]]
    except (OSError, KeyError, TypeError, OverflowError, *NOT_JSON):
        return None
    return Marker(tuple(files))
