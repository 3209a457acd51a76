"""Who is reading checkpoints of a run just now: what is being read is not removed, whatever a plan says of it.

A reader holds a lock that the kernel releases when its process dies, and names what it reads in a note beside it.
"""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from keepstep import layout
from keepstep.errors import FULL
from keepstep.log import logger
from keepstep.stores import Store

if TYPE_CHECKING:
    from filelock import FileLock


_NOTE, _LOCK = ".json", ".lock"


class _Note(msgspec.Struct):
    generations: list[int]
    why: str


@contextmanager
def _told(why: str) -> Generator[None]:
    """Without room for a note nothing is kept in place, and that is when others make room."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            logger.warning("the disk is full: a training may remove what is %s meanwhile; pin it to be sure", why)


class Readers:
    """Reads and changes `.keepstep/readers/`; safe beside a training that holds the run's lock.

    While it is `muted`, because nobody trains there, nothing is kept in place and nothing written.
    """

    def __init__(self, store: Store, *, muted: bool = False) -> None:
        self.muted = muted
        self._store = store

    @contextmanager
    def reading(self, generations: Iterable[int], why: str) -> Generator[None]:
        """Keep checkpoints in place while the block lasts; `why` completes the sentence "it stays: ...".

        What a prune had decided on a moment earlier may still go: look, inside the block, whether it is there.
        In a run that can't be written to nothing is kept in place. Raises nothing of its own.
        """
        name = f"{layout.READERS}/{uuid.uuid4().hex[:16]}"
        lock: FileLock | None = None
        if self.muted:
            yield
            return
        with suppress(NotImplementedError), _told(why):  # filelock's word where the file system knows no flock
            self._store.make_directory(layout.READERS, durable=False)
            taken = self._lock(name)
            taken.acquire()
            lock = taken
            self._store.replace(name + _NOTE, msgspec.json.encode(_Note(sorted(set(generations)), why)))
        try:
            yield
        finally:
            if lock is not None:
                self._clear(name)
                lock.release()

    def read(self) -> dict[int, str]:
        """Generations that are being read, and why; what a reader that died left behind is cleared."""
        found: dict[int, str] = {}
        names = [entry.path for entry in self._store.list(layout.READERS)]
        for name in (f"{layout.READERS}/{path.removesuffix(_NOTE)}" for path in names if path.endswith(_NOTE)):
            if self._is_alive(name):
                try:
                    data = self._store.read(name + _NOTE, limit=layout.SMALL_FILE_LIMIT)
                    note = msgspec.json.decode(data, type=_Note)
                except (OSError, *layout.NOT_JSON):
                    continue  # it ended meanwhile
                found |= dict.fromkeys(note.generations, note.why)
        return found

    def _lock(self, name: str) -> FileLock:
        from filelock import FileLock  # it costs every command 30 ms, and few runs have a reader

        return FileLock(self._store.local_path(name + _LOCK), is_singleton=False, thread_local=False)

    def _is_alive(self, name: str) -> bool:
        """True while a process holds the lock; who can't tell, takes it that one does."""
        from filelock import Timeout

        lock = self._lock(name)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        except (OSError, NotImplementedError):
            return True
        self._clear(name)
        lock.release()
        return False

    def _clear(self, name: str) -> None:
        for ending in (_NOTE, _LOCK):
            with suppress(OSError):
                self._store.delete(name + ending)
