"""A local store that counts what is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from keepstep.repository import MANIFEST_NAME
from keepstep.stores import Entry, LocalStore


class CountingStore(LocalStore):
    """Bytes taken by `chunks`, paths of manifests that were read, and directories that were listed."""

    def __init__(self, root: Path | str) -> None:
        super().__init__(root)
        self.forget()

    def forget(self) -> None:
        """Begin to count anew."""
        self.bytes_read = 0
        self.manifests: list[str] = []
        self.listed: list[str] = []

    def chunks(self, path: str, *, size: int, start: int = 0) -> Iterator[memoryview]:
        for piece in super().chunks(path, size=size, start=start):
            self.bytes_read += len(piece)
            yield piece

    def read(self, path: str, *, limit: int) -> bytes:
        if path.endswith(MANIFEST_NAME):
            self.manifests.append(path)
        return super().read(path, limit=limit)

    def list(self, path: str) -> list[Entry]:
        self.listed.append(path)
        return super().list(path)
