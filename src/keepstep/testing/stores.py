"""What every store must do, as a suite of tests that a store's own test inherits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from keepstep.stores import Entry, Store


class StoreConformance(ABC):
    """Inherit, name the class `Test...`, and return a new, empty store from `make_store`."""

    @abstractmethod
    def make_store(self, empty: Path) -> Store:
        """A new store; `empty` is a directory of its own that it may use."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        store = self.make_store(tmp_path / "store")
        store.make_directory("")
        return store

    # -- reading ---------------------------------------------------------------------------------------

    def test_a_new_store_is_empty(self, store: Store) -> None:
        assert store.list("") == store.walk("") == []
        assert not store.exists("file")
        room = store.room()
        assert 0 <= room.free_bytes <= room.total_bytes
        assert room.free_entries is None or room.free_entries >= 0

    def test_what_is_not_there_lists_as_empty_and_reads_as_an_error(self, store: Store) -> None:
        assert store.list("missing") == store.walk("missing") == []
        with pytest.raises(FileNotFoundError):
            store.read("missing", limit=10)
        with pytest.raises(FileNotFoundError):
            list(store.chunks("missing", size=10))
        with pytest.raises(OSError, match=r"."):
            store.sync_file("missing")

    def test_a_directory_does_not_read_as_a_file(self, store: Store) -> None:
        store.make_directory("directory")
        with pytest.raises(OSError, match=r"."):
            store.read("directory", limit=10)

    def test_a_file_is_not_listed_as_a_directory(self, store: Store) -> None:
        store.write("file", b"x")
        assert store.list("file") == []

    def test_entries_come_sorted_with_kind_and_size(self, store: Store) -> None:
        store.make_directory("b/deep")
        store.write("a", b"four")
        store.write("b/deep/file", b"")
        assert store.list("") == [Entry("a", "file", 4), Entry("b", "directory", 0)]
        assert {entry.path for entry in store.walk("")} == {"a", "b", "b/deep", "b/deep/file"}
        assert {entry.path for entry in store.walk("b")} == {"deep", "deep/file"}

    def test_a_read_has_a_limit(self, store: Store) -> None:
        store.write("file", b"12345")
        assert store.read("file", limit=5) == b"12345"
        with pytest.raises(OSError, match=r"."):
            store.read("file", limit=4)

    def test_chunks_are_the_file(self, store: Store) -> None:
        data = bytes(range(256)) * 5
        store.write("file", data)
        pieces = [bytes(piece) for piece in store.chunks("file", size=100)]
        assert b"".join(pieces) == data
        assert max(map(len, pieces)) <= 100

    # -- writing ---------------------------------------------------------------------------------------

    def test_a_file_is_written_once(self, store: Store) -> None:
        store.write("file", b"first")
        with pytest.raises(FileExistsError):
            store.write("file", b"second")
        assert store.read("file", limit=10) == b"first"

    def test_directories_are_made_with_their_parents_and_may_be_there(self, store: Store) -> None:
        store.make_directory("a/b/c")
        store.make_directory("a/b/c")
        assert [entry.path for entry in store.walk("")] == ["a", "a/b", "a/b/c"]

    @pytest.mark.parametrize("durable", [True, False])
    def test_append_creates_and_appends(self, store: Store, durable: bool) -> None:
        store.append("log", b"one", durable=durable)
        store.append("log", b"two", durable=durable)
        assert store.read("log", limit=10) == b"onetwo"

    def test_replace_creates_and_replaces_and_leaves_nothing_beside(self, store: Store) -> None:
        store.make_directory("home")
        store.replace("home/file", b"one")
        store.replace("home/file", b"two")
        assert store.read("home/file", limit=10) == b"two"
        assert store.list("home") == [Entry("file", "file", 3)]

    def test_replace_may_work_in_another_directory(self, store: Store) -> None:
        store.make_directory("home")
        store.make_directory("workplace")
        store.replace("home/file", b"one", workplace="workplace")
        store.replace("home/file", b"two", workplace="workplace")
        assert store.read("home/file", limit=10) == b"two"
        assert store.list("home") == [Entry("file", "file", 3)] and store.list("workplace") == []
        with pytest.raises(OSError, match=r"."):
            store.replace("home/file", b"three", workplace="nowhere")
        assert store.read("home/file", limit=10) == b"two"

    def test_syncs_change_nothing(self, store: Store) -> None:
        store.make_directory("home")
        store.write("home/file", b"x")
        before = store.walk("")
        store.sync_file("home/file")
        store.sync_directory("home")
        store.sync_directory("")
        assert store.walk("") == before

    # -- names -----------------------------------------------------------------------------------------

    def test_rename_moves_files_and_trees(self, store: Store) -> None:
        store.make_directory("a/b")
        store.make_directory("home")
        store.write("a/b/file", b"x")
        store.rename("a", "home/a")
        assert store.read("home/a/b/file", limit=10) == b"x"
        assert not store.exists("a")

    def test_rename_never_replaces(self, store: Store) -> None:
        store.write("one", b"1")
        store.write("two", b"2")
        store.make_directory("directory")
        store.make_directory("empty")
        for source, target in (("one", "two"), ("directory", "empty"), ("directory", "two"), ("one", "empty")):
            with pytest.raises(FileExistsError):
                store.rename(source, target)
        assert store.read("two", limit=10) == b"2"
        assert len(store.list("")) == 4

    def test_rename_needs_a_source(self, store: Store) -> None:
        with pytest.raises(FileNotFoundError):
            store.rename("missing", "other")

    def test_a_link_is_a_second_name_or_nothing(self, store: Store) -> None:
        store.write("file", b"bytes")
        store.make_directory("home")
        if not store.link("file", "home/other"):
            assert store.list("home") == []
            return
        with pytest.raises(FileExistsError):
            store.link("file", "home/other")
        store.delete("file")
        assert store.read("home/other", limit=10) == b"bytes"
        with pytest.raises(FileNotFoundError):
            store.link("file", "home/third")

    def test_exchange_swaps_or_does_nothing(self, store: Store) -> None:
        for name in ("one", "two"):
            store.make_directory(name)
            store.write(f"{name}/file", name.encode())
        done = store.exchange("one", "two")
        names = ["two", "one"] if done else ["one", "two"]
        assert [store.read(f"{name}/file", limit=10).decode() for name in ("one", "two")] == names

    def test_delete_takes_files_trees_and_what_is_gone(self, store: Store) -> None:
        store.make_directory("a/b")
        store.write("a/b/file", b"x")
        store.write("file", b"x")
        store.delete("a")
        store.delete("file")
        store.delete("missing")
        assert store.list("") == []

    def test_every_path_has_a_local_one_below_the_root(self, store: Store) -> None:
        assert store.local_path("a/b") == store.local_path("") / "a" / "b"

    def test_a_file_is_read_from_any_place_to_its_end(self, store: Store) -> None:
        store.write("file", b"one two three")
        pieces = [bytes(piece) for piece in store.chunks("file", size=5, start=4)]
        assert pieces == [b"two t", b"hree"]
        assert list(store.chunks("file", size=5, start=100)) == []

    def test_a_stamp_tells_the_kind_and_the_size_and_stays_while_nothing_changes(self, store: Store) -> None:
        store.make_directory("directory")
        store.write("directory/file", b"four")
        for path, kind in (("directory", "directory"), ("directory/file", "file")):
            stamp = store.stamp(path)
            assert stamp is not None and stamp.kind == kind
            assert store.stamp(path) == stamp
        stamp = store.stamp("directory/file")
        assert stamp is not None and stamp.size == 4
        assert store.stamp("missing") is None
        assert store.stamp("directory/file/below") is None

    def test_what_is_replaced_or_grows_has_another_stamp(self, store: Store) -> None:
        store.make_directory("home")
        store.replace("home/file", b"one")
        stamps = [store.stamp("home/file")]
        store.replace("home/file", b"two")
        stamps.append(store.stamp("home/file"))
        store.append("home/file", b"more", durable=False)
        stamps.append(store.stamp("home/file"))
        store.make_directory("other")
        store.write("other/file", b"twomore")
        assert store.exchange("home", "other") is False or store.stamp("home/file") not in stamps
        assert len(set(stamps)) == 3

    def test_a_directory_has_a_time(self, store: Store) -> None:
        store.make_directory("a")
        assert store.modified("a") >= 0
