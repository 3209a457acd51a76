"""Records of a mirror that were read, kept between processes: a record never changes, so it is asked for once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from keepstep.layout import MIRROR_INDEX
from keepstep.mirror.record import Record, encode
from keepstep.paths import cache_home
from keepstep.stores import LocalStore, Store

LARGEST = 64 * 2**20
"""Bytes of one mirror's records that are kept, the newest first."""
LARGEST_OF_ALL = 256 * 2**20
"""Bytes of the records of all mirrors in the user's cache directory; above it those that were read longest ago go."""
_STALE = 64


class RecordCache:
    """One file, a line for each record: its key and its bytes, which carry their own digest.

    It is a cache: it can be deleted at any time, what is torn or damaged in it is asked for anew, and what can't be
    written is not. Lines are only appended; where most are of records that are gone, or it grows too large, it is
    written anew. `store` None keeps nothing.
    """

    def __init__(self, store: Store | None, path: str = "") -> None:
        self._store = store
        self._path = path
        self._lines: dict[str, bytes] | None = None
        self._fresh: list[bytes] = []
        self._size = 0
        self._torn = False

    @classmethod
    def of_run(cls, store: Store, url: str) -> RecordCache:
        """Beside a run's other records."""
        return cls(store if cache_home() is not None else None, f"{MIRROR_INDEX}-{_name(url)}.jsonl")

    @classmethod
    def of_user(cls, url: str) -> RecordCache:
        """In the user's cache directory (`paths.cache_home`), for an address without its run."""
        home = cache_home()
        if home is None:
            return cls(None)
        return cls(LocalStore(home / "mirrors"), f"{_name(url)}.jsonl")

    def take(self, key: str) -> bytes | None:
        """The bytes of a record, as far as they are known; each is given once."""
        if self._lines is None:
            self._lines = self._read()
        return self._lines.pop(key, None)

    def add(self, key: str, data: bytes) -> None:
        """Keep a record that was read, with the next `save`."""
        if b"\n" not in data[:-1]:
            self._fresh.append(_line(key, data))

    def save(self, everything: Sequence[Record] | None = None) -> None:
        """Write what was added; `everything` are all records that there are, where all were looked at, newest first."""
        store, fresh, self._fresh = self._store, self._fresh, []
        if store is None:
            return
        added = b"".join(fresh)
        gone = len(self._lines or ()) if everything is not None else 0
        with suppress(OSError):
            if everything is not None and (
                self._size + len(added) > LARGEST or (gone > _STALE and gone > len(everything))
            ):
                self._rewrite(store, everything)
            elif added and self._size + len(added) <= LARGEST:
                self._make_home(store)
                store.append(self._path, b"\n" * self._torn + added, durable=False)
                self._size, self._torn = self._size + len(added), False
            if added and self._is_users(store):
                _trim(Path(store.local_path("")))

    def _rewrite(self, store: Store, records: Sequence[Record]) -> None:
        kept: list[bytes] = []
        size = 0
        for record in records:
            line = _line(record.key, encode(record.checkpoint, record.home))
            size += len(line)
            if size > LARGEST:
                break
            kept.append(line)
        self._make_home(store)
        data = b"".join(kept)
        store.replace(self._path, data)
        self._lines, self._size, self._torn = {}, len(data), False

    def _read(self) -> dict[str, bytes]:
        if self._store is None:
            return {}
        try:
            data = self._store.read(self._path, limit=LARGEST)
        except OSError:
            stamp = self._store.stamp(self._path)
            self._size = 0 if stamp is None else stamp.size
            return {}
        self._size = len(data)
        self._torn = bool(data) and not data.endswith(b"\n")  # by a process that was killed
        pairs = (line.partition(b"\t") for line in data.split(b"\n"))
        return {key.decode(errors="replace"): found + b"\n" for key, tab, found in pairs if tab}

    def _make_home(self, store: Store) -> None:
        if self._is_users(store):
            Path(store.local_path("")).mkdir(parents=True, exist_ok=True, mode=0o700)

    def _is_users(self, store: Store) -> bool:
        return "/" not in self._path


def _line(key: str, data: bytes) -> bytes:
    return key.encode() + b"\t" + data.rstrip(b"\n") + b"\n"


def _name(url: str) -> str:
    return blake2b(url.encode(errors="surrogateescape"), digest_size=8).hexdigest()


def _trim(home: Path) -> None:
    """Remove what was written longest ago, where all of it is too large."""
    found = sorted((s.st_mtime_ns, s.st_size, path) for path in home.iterdir() if (s := path.lstat()))
    total = sum(size for _, size, _ in found)
    for _, size, path in found if total > LARGEST_OF_ALL else ():
        if total <= LARGEST_OF_ALL // 2:
            break
        path.unlink(missing_ok=True)
        total -= size
