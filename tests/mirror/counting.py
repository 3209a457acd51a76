"""A place that counts what is asked of it, as an object store would be billed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from keepstep.mirror import Object, ObjectStore

PAGE = 1000
"""Keys that one request for a list gives."""
PART = 16 * 2**20


class CountingObjects:
    """Another place, with `requests` by kind, the keys that were read, and the bytes each way.

    A large object is billed as its parts, one request that begins it and one that ends it; a list by its pages, as far
    as they were taken.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self.requests: Counter[str] = Counter()
        self.read_keys: list[str] = []
        self.up = self.down = 0

    @property
    def total(self) -> int:
        return self.requests.total()

    @property
    def url(self) -> str:
        return self._objects.url

    def reset(self) -> None:
        self.requests.clear()
        self.read_keys.clear()
        self.up = self.down = 0

    def create(self, key: str, data: bytes) -> bool:
        self.requests["PUT"] += 1
        made = self._objects.create(key, data)
        self.requests["GET"] += not made  # what lies there is compared
        return made

    def put(self, key: str, pieces: Iterable[bytes], size: int) -> None:
        self.requests["PUT"] += 1 if size <= PART else -(-size // PART) + 2
        self.up += size
        self._objects.put(key, pieces, size)

    def read(self, key: str, *, limit: int) -> bytes:
        self.requests["GET"] += 1
        self.read_keys.append(key)
        data = self._objects.read(key, limit=limit)
        self.down += len(data)
        return data

    def read_range(self, key: str, start: int, length: int) -> bytes:
        self.requests["GET"] += bool(length)
        self.read_keys.append(key)
        data = self._objects.read_range(key, start, length)
        self.down += len(data)
        return data

    def list(self, directory: str) -> Iterator[Object]:
        self.requests["LIST"] += 1
        for number, item in enumerate(self._objects.list(directory)):
            self.requests["LIST"] += number > 0 and number % PAGE == 0
            yield item

    def delete(self, keys: Sequence[str]) -> None:
        self.requests["DELETE"] += -(-len(keys) // PAGE)
        self._objects.delete(keys)
