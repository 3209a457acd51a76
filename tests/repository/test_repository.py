"""Staging, commit, listing, setting aside and recovery, over both stores."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from keepstep import layout
from keepstep.errors import StorageError
from keepstep.model import Checkpoint, Kind, State
from keepstep.repository import Repository, manifest
from keepstep.stores import LocalStore
from keepstep.stores.memory import MemoryStore
from keepstep.testing.faults import Fault, FaultyStore, Injector
from tests.checkpoints import make_checkpoint

RUN_ID = "run-test"
AnyStore = LocalStore | MemoryStore


@pytest.fixture(params=["local", "local without exchange", "memory", "memory without exchange"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnyStore:
    if request.param == "local without exchange":
        monkeypatch.setattr("keepstep.stores.renaming._renameat2", lambda: None)
    store = (
        LocalStore(tmp_path)
        if request.param.startswith("local")
        else MemoryStore(can_exchange=request.param == "memory")
    )
    store.make_directory("")
    return store


def put(store: AnyStore, path: str, data: bytes) -> None:
    if isinstance(store, MemoryStore):
        store.put(path, data)
    else:
        store.local_path(path).parent.mkdir(parents=True, exist_ok=True)
        store.local_path(path).write_bytes(data)


def commit(store: AnyStore, generation: int, step: int | None = None, kind: Kind = Kind.FULL) -> Checkpoint:
    repository = Repository(store, RUN_ID)
    draft = make_checkpoint(generation, step, kind=kind, timeline=1)
    staging = repository.stage()
    put(store, f"{staging.key}/{draft.name}/model.bin", f"generation {generation}".encode())
    put(store, f"{staging.key}/{draft.name}/deep/er/state.bin", b"state")
    return repository.commit(staging, draft)


def generations(store: AnyStore) -> list[int]:
    return [checkpoint.generation for checkpoint in Repository(store, RUN_ID).listing().checkpoints]


def rooms(store: AnyStore) -> list[str]:
    return [e.path for room in (layout.STAGING, layout.TRASH, layout.REPLACED) for e in store.list(room)]


def test_a_commit_is_listed_and_holds(store: AnyStore) -> None:
    checkpoint = commit(store, 1)
    assert [entry.path for entry in checkpoint.files] == ["deep/er/state.bin", "model.bin"]
    repository = Repository(store, RUN_ID)
    assert repository.listing().checkpoints == (checkpoint,)
    assert repository.verify(checkpoint).ok
    assert rooms(store) == []


def test_order_is_generation_whatever_the_steps_say(store: AnyStore) -> None:
    commit(store, 1, step=30)
    commit(store, 2, step=10)
    commit(store, 3, step=20)
    assert [c.step for c in Repository(store, RUN_ID).listing().checkpoints] == [30, 10, 20]


def test_the_same_step_again_replaces(store: AnyStore) -> None:
    commit(store, 1, step=6)
    commit(store, 2, step=6)
    checkpoint = Repository(store, RUN_ID).listing().checkpoints[0]
    assert checkpoint.generation == 2
    assert store.read("checkpoint-6/model.bin", limit=100) == b"generation 2"
    assert rooms(store) == []


def test_weights_and_full_of_one_step_stand_beside_each_other(store: AnyStore) -> None:
    commit(store, 1, step=6)
    commit(store, 2, step=6, kind=Kind.WEIGHTS)
    assert [c.name for c in Repository(store, RUN_ID).listing().checkpoints] == ["checkpoint-6", "weights-6"]


def test_a_foreign_directory_in_the_way_is_set_aside_whole_and_said(
    store: AnyStore, caplog: pytest.LogCaptureFixture
) -> None:
    put(store, "checkpoint-6/precious.bin", b"precious")
    commit(store, 1, step=6)
    assert generations(store) == [1]
    kept = [entry.path for entry in store.walk(layout.PREVIOUS) if entry.kind == "file"]
    assert len(kept) == 1
    assert kept[0].endswith("checkpoint-6/precious.bin")
    (line,) = caplog.messages
    there, here = store.local_path("checkpoint-6"), store.local_path(f"{layout.PREVIOUS}/{kept[0]}").parent
    assert line == f"{there} is none of this run's, and has the name of a checkpoint of it: moved to {here}"


def test_a_foreign_directory_comes_back_where_the_commit_fails(
    store: AnyStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "checkpoint-6/precious.bin", b"precious")
    rename = type(store).rename

    def fail(self: AnyStore, source: str, target: str) -> None:
        if source.startswith(layout.STAGING):
            raise OSError(5, "Input/output error")
        rename(self, source, target)

    monkeypatch.setattr(type(store), "rename", fail)
    with pytest.raises(StorageError):
        commit(store, 1, step=6)
    assert store.read("checkpoint-6/precious.bin", limit=100) == b"precious"
    assert [" moved to " in line for line in caplog.messages] == [True, False] and "is back" in caplog.messages[1]


def test_empty_directories_are_left_out_so_that_the_checkpoint_verifies(store: AnyStore) -> None:
    repository = Repository(store, RUN_ID)
    staging = repository.stage()
    put(store, f"{staging.key}/checkpoint-100/model.bin", b"x")
    for empty in ("empty", "nested/empty"):
        store.make_directory(f"{staging.key}/checkpoint-100/{empty}")
    checkpoint = repository.commit(staging, make_checkpoint(1, timeline=1))
    assert repository.verify(checkpoint).ok
    assert [entry.path for entry in store.walk("checkpoint-100")] == ["keepstep.json", "model.bin"]


@pytest.mark.parametrize("name", ["a\\b", "\udcff", "new\nline", "ü", "spa ce", "x" * 200])
def test_what_is_committed_can_be_read_back(tmp_path: Path, name: str) -> None:
    store = LocalStore(tmp_path)
    repository = Repository(store, RUN_ID)
    staging = repository.stage()
    put(store, f"{staging.key}/checkpoint-100/{name}", b"x")
    try:
        repository.commit(staging, make_checkpoint(1, timeline=1))
    except StorageError:
        assert name in ("a\\b", "\udcff")
        assert [entry.path for entry in store.list("")] == [layout.META]
        assert rooms(store) == []
    else:
        assert generations(store) == [1]
        assert repository.verify(repository.listing().checkpoints[0]).ok


def test_a_writer_that_wrote_nothing_or_a_link_or_a_manifest_is_refused(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    repository = Repository(store, RUN_ID)
    for name in (None, "link", "keepstep.json"):
        staging = repository.stage()
        directory = staging.path / "checkpoint-100"
        directory.mkdir()
        if name == "link":
            (directory / name).symlink_to("/etc/passwd")
        elif name:
            (directory / name).write_bytes(b"{}")
        with pytest.raises(StorageError):
            repository.commit(staging, make_checkpoint(1, timeline=1))
    assert generations(store) == []
    assert rooms(store) == []


def test_removal_takes_exactly_one(store: AnyStore) -> None:
    commit(store, 1)
    second = commit(store, 2)
    Repository(store, RUN_ID).remove(second)
    assert generations(store) == [1]
    assert rooms(store) == []


def test_what_is_set_aside_and_quarantined_is_found_again(store: AnyStore) -> None:
    repository = Repository(store, RUN_ID)
    one, two, three = (commit(store, number) for number in (1, 2, 3))
    repository.quarantine(one)
    repository.set_aside(two, 1)
    assert [(c.generation, c.state) for c in repository.aside()] == [(1, State.QUARANTINED), (2, State.SET_ASIDE)]
    assert generations(store) == [3]
    assert all(repository.verify(checkpoint).ok for checkpoint in repository.aside())
    assert repository.current_timeline() == 2
    again = commit(store, 4, step=two.step)
    repository.set_aside(again, 1)
    assert [c.generation for c in repository.aside()] == [1, 2, 4]
    assert three.resumable


@pytest.mark.parametrize("operation", ["exchange", "rename", "sync_directory", "write", "sync_file", "delete"])
@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize("sticky", [False, True])
def test_a_failed_replacement_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str, can_exchange: bool, sticky: bool
) -> None:
    """At every change of that kind: the old one or the new one is whole, and a failure means the old one."""
    if not can_exchange:
        monkeypatch.setattr("keepstep.testing.faults.FaultyStore.exchange", lambda *_: False)
    at = 0
    while True:
        at += 1
        root = tmp_path / f"{at}"
        commit(LocalStore(root), 1, step=6)
        dry = Injector()
        commit_with(FaultyStore(root, dry), 2)
        hits = [number for number, change in enumerate(dry.changes, 1) if change[0] == operation]
        if at > len(hits):
            break
        root = tmp_path / f"{at}-faulty"
        commit(LocalStore(root), 1, step=6)
        refusal: StorageError | None = None
        try:
            commit_with(FaultyStore(root, Injector(Fault(hits[at - 1], sticky=sticky))), 2)
        except StorageError as error:
            refusal = error
        expected = 2 if refusal is None else 1
        assert refusal is None or refusal.errno == errno.EIO
        if not sticky:  # what can't be undone on a dead disk is undone at the next start
            assert generations(LocalStore(root)) == [expected]
        Repository(LocalStore(root), RUN_ID).recover()
        store = LocalStore(root)
        assert generations(store) in ([1], [2])
        assert Repository(store, RUN_ID).verify(Repository(store, RUN_ID).listing().checkpoints[0]).ok
        assert rooms(store) == []


def test_a_failed_commit_is_not_visible(tmp_path: Path) -> None:
    dry = Injector()
    LocalStore(tmp_path / "dry").make_directory("")
    commit(FaultyStore(tmp_path / "dry", dry), 1)
    refused = 0
    for at in range(1, len(dry.changes) + 1):
        store = LocalStore(tmp_path / str(at))
        store.make_directory("")
        try:
            commit(FaultyStore(store.root, Injector(Fault(at))), 1)
        except StorageError:
            refused += 1
            assert [entry.path for entry in store.list("")] in ([], [layout.META])
            assert rooms(store) == []
        else:
            assert generations(store) == [1]
    assert refused == len(dry.changes) - 1  # the clearing of the empty staging directory may fail


def commit_with(store: LocalStore, generation: int) -> Checkpoint:
    return commit(store, generation, step=6)


def test_a_failed_removal_leaves_the_checkpoint_or_takes_it_from_sight(tmp_path: Path) -> None:
    dry = Injector()
    Repository(FaultyStore(tmp_path / "dry", dry), RUN_ID).remove(commit(LocalStore(tmp_path / "dry"), 1))
    for at in range(1, len(dry.changes) + 1):
        root = tmp_path / str(at)
        checkpoint = commit(LocalStore(root), 1)
        repository = Repository(FaultyStore(root, Injector(Fault(at))), RUN_ID)
        try:
            repository.remove(checkpoint)
        except OSError:
            assert generations(LocalStore(root)) == [1]
            assert Repository(LocalStore(root), RUN_ID).verify(checkpoint).ok
        else:
            assert generations(LocalStore(root)) == []


# -- recovery ----------------------------------------------------------------------------------------------


def test_recovery_clears_litter_and_nothing_else(store: AnyStore) -> None:
    checkpoint = commit(store, 1)
    repository = Repository(store, RUN_ID)
    put(store, f"{repository.stage().key}/checkpoint-200/model.bin", b"half")
    put(store, f"{layout.TRASH}/abc/checkpoint-50/model.bin", b"old")
    for name in (".run.json.abc.tmp", ".pins.json.abc.tmp", ".mine"):
        put(store, f"{layout.META}/{name}", b"")
    assert repository.recover() == ["cleared an unfinished save", "cleared an unfinished removal"]
    assert repository.recover() == []
    assert rooms(store) == []
    assert [e.path for e in store.list(layout.META) if e.path.startswith(".")] == [".mine", ".pins.json.abc.tmp"]
    assert repository.verify(checkpoint).ok


def test_recovery_puts_a_replaced_checkpoint_back(store: AnyStore) -> None:
    commit(store, 1, step=6)
    store.make_directory(layout.REPLACED)
    store.rename("checkpoint-6", f"{layout.REPLACED}/checkpoint-6")
    assert Repository(store, RUN_ID).recover() == ["put back checkpoint-6"]
    assert generations(store) == [1]
    assert rooms(store) == []


def test_recovery_does_not_take_a_foreign_directory_for_the_replacement(store: AnyStore) -> None:
    commit(store, 1, step=6)
    store.make_directory(layout.REPLACED)
    store.rename("checkpoint-6", f"{layout.REPLACED}/checkpoint-6")
    put(store, "checkpoint-6/stock.bin", b"not ours")
    Repository(store, RUN_ID).recover()
    assert generations(store) == [1]
    assert [entry.path for entry in store.walk(layout.PREVIOUS) if entry.path.endswith("stock.bin")]


@pytest.mark.parametrize("room", [layout.STAGING, layout.TRASH, layout.REPLACED, layout.META])
def test_recovery_never_follows_a_link_out_of_the_run(tmp_path: Path, room: str) -> None:
    outside = tmp_path / "outside"
    for name in ("thesis", "staging/thesis", "trash/thesis"):
        (outside / name).mkdir(parents=True)
        (outside / name / "text").write_bytes(b"precious")
    before = sorted(outside.rglob("*"))
    store = LocalStore(tmp_path / "run")
    store.make_directory("" if room == layout.META else layout.META)
    os.symlink(outside, store.local_path(room))
    Repository(store, RUN_ID).recover()
    assert sorted(outside.rglob("*")) == before


def test_litter_that_can_not_be_cleared_is_no_reason_to_refuse(tmp_path: Path) -> None:
    checkpoint = commit(LocalStore(tmp_path), 1)
    Repository(LocalStore(tmp_path), RUN_ID).stage()
    store = Undeletable(tmp_path)
    assert Repository(store, RUN_ID).recover() == []
    assert Repository(store, RUN_ID).verify(checkpoint).ok


class Undeletable(LocalStore):
    def delete(self, path: str) -> None:
        raise OSError(errno.EPERM, "immutable", path)


# -- what is not ours --------------------------------------------------------------------------------------


def test_look_alikes_are_foreign_with_a_reason(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    commit(store, 1, step=6)
    good = (tmp_path / "checkpoint-6" / "keepstep.json").read_bytes()
    other = manifest.encode(make_checkpoint(1, 8, run_id="another", timeline=1))
    for name, data in (("checkpoint-7", good), ("checkpoint-8", other), ("checkpoint-9", b"{}"), ("weights-6", good)):
        put(store, f"{name}/keepstep.json", data)
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "checkpoint-11").write_bytes(b"")
    (tmp_path / "checkpoint-12").symlink_to(tmp_path / "checkpoint-6")
    for end in ("best", "6.bak", "007", "", "-1", "6 "):
        put(store, f"checkpoint-{end}/keepstep.json", good)
    listing = Repository(store, RUN_ID).listing()
    assert [c.name for c in listing.checkpoints] == ["checkpoint-6"]
    reasons = {foreign.path.name: foreign.reason for foreign in listing.foreign}
    assert set(reasons) == {*(f"checkpoint-{step}" for step in (7, 8, 9, 10, 11, 12)), "weights-6"}
    assert reasons["checkpoint-7"] == "it is checkpoint-6 under another name"
    assert reasons["checkpoint-8"] == "it belongs to run another"
    assert reasons["checkpoint-10"] == "it has no keepstep.json"
    assert "link" in reasons["checkpoint-12"]


def test_a_link_to_our_own_checkpoint_is_set_aside_and_its_target_kept(tmp_path: Path) -> None:
    """Somebody moved a checkpoint to another disk and left a link: the same step again must not eat it."""
    store = LocalStore(tmp_path / "run")
    commit(store, 1, step=6)
    moved = tmp_path / "elsewhere"
    (tmp_path / "run" / "checkpoint-6").rename(moved)
    (tmp_path / "run" / "checkpoint-6").symlink_to(moved)
    commit(store, 2, step=6)
    assert generations(store) == [2]
    assert (moved / "model.bin").read_bytes() == b"generation 1"
    assert (moved / "keepstep.json").exists()
