"""What every place where objects live must do, as a suite of tests that its own test inherits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keepstep.errors import MirrorUnavailable
from keepstep.mirror import ObjectStore

PART = 16 * 2**20


class ObjectStoreConformance(ABC):
    """Inherit, name the class `Test...`, and return a new, empty place from `make_objects`.

    `exclusive` says whether the place promises that a create never replaces; `ranges` whether it has ranges.
    """

    exclusive = True

    @abstractmethod
    def make_objects(self, empty: Path) -> ObjectStore:
        """A new place; `empty` is the name of a directory of its own that it may make and use."""

    @pytest.fixture
    def objects(self, tmp_path: Path) -> ObjectStore:
        return self.make_objects(tmp_path / "objects")

    def test_a_new_place_is_empty(self, objects: ObjectStore) -> None:
        assert list(objects.list("")) == [] == list(objects.list("commits"))
        with pytest.raises(FileNotFoundError):
            objects.read("commits/missing", limit=10)
        with pytest.raises(FileNotFoundError):
            objects.read_range("commits/missing", 0, 1)

    def test_what_is_created_is_read(self, objects: ObjectStore) -> None:
        assert objects.create("commits/a.json", b"first")
        assert objects.read("commits/a.json", limit=5) == b"first"
        with pytest.raises(MirrorUnavailable):
            objects.read("commits/a.json", limit=4)

    def test_a_create_never_replaces(self, objects: ObjectStore) -> None:
        assert objects.create("commits/a.json", b"first")
        assert objects.create("commits/a.json", b"second") is not self.exclusive
        if self.exclusive:
            assert not objects.create("commits/a.json", b"1"), "a shorter one"
            assert objects.create("commits/a.json", b"first"), "an answer that was lost"
            assert objects.read("commits/a.json", limit=10) == b"first"

    def test_of_many_that_create_at_once_one_wins(self, objects: ObjectStore) -> None:
        claims = [str(number).encode() for number in range(8)]

        def create(data: bytes) -> bool:
            return objects.create("writers/1.json", data)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(create, claims))
        if self.exclusive:
            assert won.count(True) == 1
            assert objects.read("writers/1.json", limit=10) == claims[won.index(True)]

    def test_a_put_replaces_and_has_every_piece(self, objects: ObjectStore) -> None:
        objects.put("data/x", [b"ab", b"cd"], 4)
        objects.put("data/x", [b"ef", b"", b"g"], 3)
        assert objects.read("data/x", limit=10) == b"efg"
        objects.put("data/empty", [], 0)
        assert objects.read("data/empty", limit=1) == b""

    def test_what_is_large_arrives_whole(self, objects: ObjectStore) -> None:
        pieces = [bytes([number]) * PART for number in range(2)] + [b"rest"]
        objects.put("data/large", pieces, sum(map(len, pieces)))
        assert objects.read_range("data/large", PART - 1, 2) == b"\0\1"
        assert objects.read_range("data/large", 2 * PART, PART) == b"rest"
        assert next(objects.list("data")).size == 2 * PART + 4

    @pytest.mark.parametrize("error", [ZeroDivisionError, FileNotFoundError])
    @pytest.mark.parametrize("size", [4, 2 * PART])
    def test_an_error_of_the_pieces_passes_and_leaves_nothing(
        self, objects: ObjectStore, size: int, error: type[Exception]
    ) -> None:
        def pieces() -> Iterator[bytes]:
            yield bytes(size // 2)
            raise error

        with pytest.raises(error):
            objects.put("data/x", pieces(), size)
        assert list(objects.list("data")) == []

    def test_ranges(self, objects: ObjectStore) -> None:
        objects.put("data/x", [b"0123456789"], 10)
        assert objects.read_range("data/x", 0, 10) == b"0123456789"
        assert objects.read_range("data/x", 3, 4) == b"3456"
        assert objects.read_range("data/x", 8, 10) == b"89"
        assert objects.read_range("data/x", 3, 0) == b""
        assert objects.read_range("data/x", 12, 4) == b""

    def test_a_list_is_sorted_and_of_its_directory_alone(self, objects: ObjectStore) -> None:
        for key in ("commits/b", "commits/a", "commits-of-others/c", "data/1/deep/file", "data/1/file"):
            assert objects.create(key, key.encode())
        assert [item.key for item in objects.list("commits")] == ["commits/a", "commits/b"]
        found = list(objects.list("data"))
        assert [item.key for item in found] == ["data/1/deep/file", "data/1/file"]
        assert [item.size for item in found] == [16, 11]
        assert all(item.modified > 1e9 for item in found)

    def test_deleting_what_is_gone_is_no_error(self, objects: ObjectStore) -> None:
        assert objects.create("data/a", b"a") and objects.create("data/b", b"b") and objects.create("data/c", b"c")
        objects.delete(["data/a", "data/missing", "data/b"])
        assert [item.key for item in objects.list("data")] == ["data/c"]
        objects.delete([])
