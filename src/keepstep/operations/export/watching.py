"""What an export tells while it works."""

from __future__ import annotations

from typing import Protocol


class Watcher(Protocol):
    """Hears what is being done, and how many bytes of it are done."""

    def describe(self, what: str) -> None:
        """What is being done now."""
        ...

    def advance(self, count: int) -> None:
        """So many more bytes are done."""
        ...


class Unwatched:
    """Hears nothing."""

    def describe(self, what: str) -> None:
        return

    def advance(self, count: int) -> None:
        return
