"""The questions that a mirror asks of a place where objects live: small ones are created once, large ones streamed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from keepstep.errors import MirrorUnavailable


class Garbled(MirrorUnavailable):
    """What was sent did not arrive as it was, and nothing of it counts: sent again it may."""


class Object(NamedTuple):
    """One object: its key below the store's root, its size in bytes, and when it came, seconds since the epoch by the
    clock of the place that holds it.
    """

    key: str
    size: int
    modified: float


class ObjectStore(Protocol):
    """Keys are relative POSIX paths. What `create` and `put` return from is there, whole, for everybody.

    Every method raises MirrorUnavailable where the place doesn't answer, refuses, or is full. May be used by several
    threads at once.
    """

    @property
    def url(self) -> str:
        """The address, without secrets."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Put a small object where none is; True where `data` lies there now, which must be unique to the caller.

        Whether the place keeps to that is for the caller to find out: some replace what is there.
        """
        ...

    def put(self, key: str, pieces: Iterable[bytes], size: int) -> None:
        """Put an object of `size` bytes, whole or not at all. An error that the pieces raise passes unchanged. Raises
        Garbled where the bytes were changed on their way and the place noticed.

        Each piece must be an object of its own: it may be sent after the next was taken.
        """
        ...

    def read(self, key: str, *, limit: int) -> bytes:
        """A whole object. Raises FileNotFoundError, MirrorUnavailable also where it is larger than `limit` bytes."""
        ...

    def read_range(self, key: str, start: int, length: int) -> bytes:
        """Bytes of an object, fewer at its end. Raises FileNotFoundError."""
        ...

    def list(self, directory: str) -> Iterator[Object]:
        """Every object below a directory of keys, by key; as few requests as are taken from it."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; no error for those that are gone."""
        ...
