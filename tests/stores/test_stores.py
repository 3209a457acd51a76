"""Both stores do what a store must; the local one never follows links, the one in memory models a power cut."""

from __future__ import annotations

import copy
import errno
import os
import stat
from pathlib import Path

import pytest

from keepstep.stores import LocalStore, Store, is_leftover_of
from keepstep.stores.local import LocalStore as Local
from keepstep.stores.memory import MemoryStore, no_luck
from keepstep.testing.faults import Fault, FaultyStore, Injector
from keepstep.testing.stores import StoreConformance


class TestLocalStore(StoreConformance):
    def make_store(self, empty: Path) -> Store:
        return LocalStore(empty)


class TestMemoryStore(StoreConformance):
    def make_store(self, empty: Path) -> Store:
        return MemoryStore()


class TestMemoryStoreWithoutExchange(StoreConformance):
    def make_store(self, empty: Path) -> Store:
        return MemoryStore(can_exchange=False, can_link=False)


class TestFaultyStoreWithoutFault(StoreConformance):
    def make_store(self, empty: Path) -> Store:
        return FaultyStore(empty, Injector())


class TestLocalStoreWithoutRenameat2(StoreConformance):
    @pytest.fixture(autouse=True)
    def _old_kernel(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("keepstep.stores.renaming._renameat2", lambda: None)

    def make_store(self, empty: Path) -> Store:
        return LocalStore(empty)


# -- the local store ---------------------------------------------------------------------------------------


@pytest.fixture
def local(tmp_path: Path) -> Local:
    return Local(tmp_path)


def test_links_are_neither_read_nor_followed_nor_written_through(local: Local, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    local.make_directory("room")
    local.local_path("room/file").symlink_to(outside / "secret")
    local.local_path("room/tree").symlink_to(outside)
    assert {(e.path, e.kind) for e in local.walk("room")} == {("file", "link"), ("tree", "link")}
    with pytest.raises(OSError, match="symbolic"):
        local.read("room/file", limit=100)
    with pytest.raises(OSError, match="symbolic"):
        local.append("room/file", b"x", durable=False)
    local.delete("room/tree")
    local.delete("room")
    assert (outside / "secret").read_bytes() == b"secret"


def test_a_pipe_is_refused_and_does_not_hang(local: Local) -> None:
    os.mkfifo(local.local_path("pipe"))
    assert [(e.path, e.kind) for e in local.list("")] == [("pipe", "other")]
    with pytest.raises(OSError, match="not a regular file"):
        local.read("pipe", limit=10)


@pytest.mark.parametrize("mask", [0o077, 0o027, 0o002])
def test_its_files_and_directories_are_as_the_umask_has_them(local: Local, mask: int) -> None:
    before = os.umask(mask)
    try:
        local.make_directory("a/b")
        local.write("a/one", b"")
        local.append("a/two", b"", durable=False)
        local.replace("a/three", b"")
    finally:
        os.umask(before)
    modes = {
        name: stat.S_IMODE(local.local_path(name).stat().st_mode) for name in ("a", "a/b", "a/one", "a/two", "a/three")
    }
    assert {modes["a"], modes["a/b"]} == {0o777 & ~mask}
    assert {modes["a/one"], modes["a/two"], modes["a/three"]} == {0o666 & ~mask}


def test_a_file_that_is_replaced_keeps_its_mode(local: Local) -> None:
    local.replace("file", b"old")
    local.local_path("file").chmod(0o640)
    local.replace("file", b"new")
    assert stat.S_IMODE(local.local_path("file").stat().st_mode) == 0o640


@pytest.mark.skipif(os.getuid() != 0, reason="needs a second group")
def test_groups_are_those_of_the_directory_and_of_what_is_replaced(local: Local) -> None:
    os.chown(local.local_path(""), -1, 1234)
    local.local_path("").chmod(0o2775)
    local.make_directory("a/b")
    local.write("a/b/one", b"")
    local.replace("a/two", b"")
    assert {local.local_path(name).stat().st_gid for name in ("a", "a/b", "a/b/one", "a/two")} == {1234}
    os.chown(local.local_path("a/two"), -1, 1235)
    local.replace("a/two", b"new")
    assert local.local_path("a/two").stat().st_gid == 1235


def test_a_failed_replace_leaves_the_old_file_and_nothing_else(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    local.replace("file", b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "fsync failed")

    monkeypatch.setattr("keepstep.stores.local.os.fsync", fail)
    with pytest.raises(OSError, match="fsync"):
        local.replace("file", b"new")
    assert local.read("file", limit=10) == b"old"
    assert [entry.path for entry in local.list("")] == ["file"]


def test_a_short_write_is_continued(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr("keepstep.stores.local.os.write", lambda fd, data: real(fd, data[:3]))
    local.write("file", b"0123456789")
    assert local.read("file", limit=20) == b"0123456789"


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths that were synced, in order."""
    found: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr("keepstep.stores.local.os.fsync", note)
    return found


def test_what_returns_is_durable(local: Local, tmp_path: Path, synced: list[str]) -> None:
    root = str(tmp_path)
    local.make_directory("a/b")
    assert synced == [root, f"{root}/a"]
    synced.clear()
    local.append("a/log", b"x", durable=True)
    assert synced == [f"{root}/a/log", f"{root}/a"]
    synced.clear()
    local.append("a/log", b"x", durable=True)
    assert synced == [f"{root}/a/log"]
    synced.clear()
    local.write("a/new", b"x")
    assert synced == [f"{root}/a/new"]
    synced.clear()
    local.replace("a/new", b"y")
    assert synced[1:] == [f"{root}/a"]
    assert is_leftover_of(Path(synced[0]).name, "new")


def test_every_new_directory_above_the_root_is_durable(tmp_path: Path, synced: list[str]) -> None:
    Local(tmp_path / "x" / "y").make_directory("")
    assert synced == [str(tmp_path), str(tmp_path / "x")]


def test_leftovers_are_told_from_other_files() -> None:
    assert is_leftover_of(".pins.json.abc.tmp", "pins.json")
    assert not any(is_leftover_of(name, "pins.json") for name in ("pins.json", ".pins.json", ".run.json.abc.tmp"))


# -- the store in memory -----------------------------------------------------------------------------------


def test_unsynced_names_and_bytes_do_not_survive() -> None:
    store = MemoryStore()
    store.put("file", b"data")
    assert store.crash().list("") == []
    store.sync_directory("")
    assert store.crash().read("file", limit=10) == b"\0\0\0\0"
    store.sync_file("file")
    assert store.crash().read("file", limit=10) == b"data"
    store.put("file", b"other!")
    assert store.crash().read("file", limit=10) == b"data\0\0"


def test_a_write_is_durable_but_for_its_name() -> None:
    store = MemoryStore()
    store.write("file", b"data")
    assert not store.crash().exists("file")
    assert store.crash(lambda _: True).read("file", limit=10) == b"data"
    store.sync_directory("")
    assert store.crash().read("file", limit=10) == b"data"


def test_a_rename_reaches_each_directory_by_itself() -> None:
    store = MemoryStore()
    for room in ("a", "b"):
        store.make_directory(room)
    store.write("a/file", b"x")
    store.sync_directory("a")
    store.rename("a/file", "b/file")
    views = {luck: store.crash(luck) for luck in (no_luck, lambda p: p == "a/file", lambda p: p == "b/file")}
    found = [[e.path for e in view.walk("") if e.kind == "file"] for view in views.values()]
    assert found == [["a/file"], ["a/file"], ["a/file", "b/file"]]
    store.sync_directory("b")
    assert store.crash().exists("a/file")
    assert store.crash().exists("b/file")
    store.sync_directory("a")
    assert not store.crash().exists("a/file")


def test_a_rename_whose_source_alone_was_synced_is_lost() -> None:
    store = MemoryStore()
    store.write("file", b"x")
    store.make_directory("room")
    store.rename("file", "room/file")
    store.sync_directory("")
    assert [entry.path for entry in store.crash().walk("")] == ["room"]


def test_what_survived_a_crash_survives_the_next() -> None:
    store = MemoryStore()
    store.put("room/file", b"data")
    once = store.crash(lambda _: True)
    assert once.crash().read("room/file", limit=10) == b"data"


def test_the_hook_sees_every_change_before_it_happens() -> None:
    seen: list[tuple[str, str]] = []
    store = MemoryStore(lambda operation, path: seen.append((operation, path)))
    store.make_directory("a")
    store.write("a/f", b"")
    store.rename("a/f", "g")
    store.delete("a")
    assert seen == [
        ("make_directory", "a"), ("sync_directory", ""), ("write", "a/f"), ("sync_file", "a/f"), ("rename", "a/f"),
        ("delete", "a"),
    ]  # fmt: skip


def test_stores_of_one_state_have_had_the_same_and_are_linked_alike() -> None:
    def made(*, synced: bool = False, linked: bool = False, later: bool = False) -> MemoryStore:
        store = MemoryStore()
        store.write("a", b"data")
        if linked:
            store.link("a", "b")
        else:
            store.write("b", b"data")
        if synced:
            store.sync_directory("")
        if later:
            store.make_directory("c")
            store.delete("c")
        return store

    assert made().state() == made().state() == copy.deepcopy(made()).state()
    assert made(linked=True).state() == copy.deepcopy(made(linked=True)).state()
    states = [made().state(), made(synced=True).state(), made(linked=True).state(), made(later=True).state()]
    assert len(set(states)) == 4


# -- the injector ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sticky", [False, True])
def test_a_fault_strikes_once_or_from_then_on(tmp_path: Path, sticky: bool) -> None:
    store = FaultyStore(tmp_path, Injector(Fault(2, errno.ENOSPC, sticky=sticky)))
    store.write("a", b"")
    with pytest.raises(OSError, match="No space"):
        store.write("b", b"")
    if sticky:
        with pytest.raises(OSError, match="No space"):
            store.write("c", b"")
    else:
        store.write("c", b"")
    assert store.exists("c") is not sticky
    assert store.injector.changes == [("write", "a"), ("write", "b"), ("write", "c")]


@pytest.mark.parametrize(("moment", "left"), [("before", None), ("half", b"da"), ("after", b"data")])
def test_a_fault_strikes_before_amid_or_after_the_change(tmp_path: Path, moment: str, left: bytes | None) -> None:
    store = FaultyStore(tmp_path, Injector(Fault(1, moment=moment)))  # type: ignore[arg-type]
    with pytest.raises(OSError, match="Input/output"):
        store.write("file", b"data")
    assert (store.read("file", limit=10) if store.exists("file") else None) == left
