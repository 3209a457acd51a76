"""A snapshot in the Hub's cache as a store: its files are links to blobs beside it, and these links are followed.

The layout is huggingface_hub's: `<repository>/blobs/<digest>` and `<repository>/snapshots/<revision>/<path>`, a link.
"""

from __future__ import annotations

import os
from pathlib import Path

from keepstep.stores.base import Entry
from keepstep.stores.local import LocalStore, open_regular


class HubSnapshot(LocalStore):
    """Reads what lies in a snapshot, or in a directory of one. Links that lead anywhere but to its blobs stay links."""

    def __init__(self, root: Path | str, blobs: Path) -> None:
        super().__init__(root)
        self._blobs = os.path.join(os.path.realpath(blobs), "")

    def local_path(self, path: str) -> Path:
        return Path(self._blob(path) or super().local_path(path))

    def list(self, path: str) -> list[Entry]:
        found: list[Entry] = []
        for entry in super().list(path):
            blob = self._blob(f"{path}/{entry.path}" if path else entry.path) if entry.kind == "link" else None
            found.append(Entry(entry.path, "file", os.stat(blob).st_size) if blob else entry)
        return found

    def _open_regular(self, path: str) -> tuple[int, int]:
        return open_regular(blob) if (blob := self._blob(path)) else super()._open_regular(path)

    def _blob(self, path: str) -> str | None:
        """The blob that a link leads to; None for what is no link, or leads elsewhere."""
        place = os.path.join(self.root, path)
        if not path or not os.path.islink(place):
            return None
        real = os.path.realpath(place)
        return real if real.startswith(self._blobs) and os.path.isfile(real) else None


def store_at(path: Path) -> LocalStore:
    """The store of a local directory, whether or not it lies in a snapshot of the Hub's cache."""
    place = Path(os.path.abspath(path))
    for above in (place, *place.parents):
        if above.parent.name == "snapshots" and (blobs := above.parent.parent / "blobs").is_dir():
            return HubSnapshot(path, blobs)
    return LocalStore(path)
