"""Which files of a checkpoint a mirror has whole, so that a process that begins anew need not send them again."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress

import msgspec

from keepstep.layout import MIRROR_PROGRESS, NOT_JSON, SMALL_FILE_LIMIT
from keepstep.stores import Store


class _Note(msgspec.Struct):
    url: str
    generation: int
    digest: str
    token: str
    done: list[str] = []


class Sent:
    """The token of one checkpoint's keys, which no other writer has, and the files that are there."""

    def __init__(self, store: Store, note: _Note) -> None:
        self._store = store
        self._note = note
        self._guard = threading.Lock()

    @property
    def token(self) -> str:
        """Part of each key of this checkpoint."""
        return self._note.token

    @property
    def done(self) -> frozenset[str]:
        """Paths of files that are there, whole."""
        with self._guard:
            return frozenset(self._note.done)

    def add(self, path: str) -> None:
        """A file is there."""
        with self._guard:
            self._note.done.append(path)
            with suppress(OSError):  # a full disk costs no more than sending it again
                self._store.replace(MIRROR_PROGRESS, msgspec.json.encode(self._note))


class Progress:
    """What a run knows of the checkpoint that it sends to one mirror; it lies beside the run's other records."""

    def __init__(self, store: Store, url: str) -> None:
        self._store = store
        self._url = url

    @contextmanager
    def of(self, generation: int, digest: str) -> Generator[Sent]:
        """One checkpoint, by its generation and the digest of its manifest; forgotten when the block ends well."""
        note = self._read()
        if note is None or (note.url, note.generation, note.digest) != (self._url, generation, digest):
            note = _Note(self._url, generation, digest, uuid.uuid4().hex[:12])
        yield Sent(self._store, note)
        with suppress(OSError):
            self._store.delete(MIRROR_PROGRESS)

    def _read(self) -> _Note | None:
        try:
            return msgspec.json.decode(self._store.read(MIRROR_PROGRESS, limit=SMALL_FILE_LIMIT), type=_Note)
        except (OSError, *NOT_JSON):
            return None
