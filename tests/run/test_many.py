"""What a save and a listing read: nothing twice that stays the same, and everything that changes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from msgspec.structs import replace

from keepstep import layout
from keepstep.checkpointer import Checkpointer
from keepstep.operations.usage import usage
from keepstep.repository import catalog
from keepstep.run import Run
from keepstep.run.joining import Joiner
from keepstep.run.tail import MARK
from tests.run.counting import CountingStore
from tests.small_run import make_checkpointer, make_run, manifest_of, save, steps


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


@contextmanager
def counted() -> Iterator[None]:
    """Runs that are opened inside count what they read, and a manifest is settled as soon as it is written."""
    with (
        patch("keepstep.stores.hub_cache.LocalStore", CountingStore),
        patch("keepstep.run.run.LocalStore", CountingStore),
        patch.object(catalog, "SETTLED_NS", -(10**9)),
    ):
        yield


def store_of(run: Run) -> CountingStore:
    assert isinstance(run.store, CountingStore)
    return run.store


@contextmanager
def training(path: Path, count: int) -> Iterator[Checkpointer]:
    """A training that resumed from a run of `count` checkpoints and saved once."""
    make_run(path, *range(1, count + 1))
    with counted():
        checkpointer = make_checkpointer(path)
        checkpointer.begin("auto")
        save(checkpointer, count + 1, 0.5)
        store_of(checkpointer.run).forget()
        yield checkpointer
        checkpointer.close()


def test_a_save_reads_no_manifest_but_its_own(path: Path) -> None:
    with training(path, 50) as checkpointer:
        store = store_of(checkpointer.run)
        for step in (52, 53, 54):
            store.forget()
            save(checkpointer, step, 0.5)
            assert store.manifests == [f"checkpoint-{step}/keepstep.json"]
            assert store.listed.count("") == 1


def test_a_save_reads_the_event_log_from_where_it_was_left(path: Path) -> None:
    with training(path, 50) as checkpointer:
        store = store_of(checkpointer.run)
        before = (path / layout.EVENTS).stat().st_size
        # Without the bytes that a commit hashes, the log is all that is read in pieces.
        with patch("keepstep.repository.verification.file_digest", lambda *_: "xxh3-128:" + "0" * 32):
            store.forget()
            save(checkpointer, 52, 0.5)
        added = (path / layout.EVENTS).stat().st_size - before
        assert 0 < added < 1000 < before
        assert 0 < store.bytes_read <= 2 * (added + MARK)


def test_what_another_process_appends_counts_at_once(path: Path) -> None:
    with training(path, 3) as checkpointer:
        other = Run.open(path)
        other.record_metrics(1, {"eval_loss": -1.0})
        run = checkpointer.run
        assert run.best is not None and run.best.step == 1
        other.note_verified(other.verify(run.checkpoints[1]))
        manifest_of(run.checkpoints[2]).with_name("model.bin").write_bytes(b"damaged")
        other.note_verified(other.verify(run.checkpoints[2]))
        assert run.events.damaged() == {3}
        other.record_metrics(1, {"eval_loss": 9.0})
        assert run.best is not None and run.best.step != 1
        assert run.checkpoints[0].metrics["eval_loss"] == 9.0


def test_an_event_log_that_is_gone_is_forgotten(path: Path) -> None:
    run = make_run(path, 1, 2)
    run.record_metrics(1, {"late": 1.0})
    assert run.checkpoints[0].metrics["late"] == 1.0
    (path / layout.EVENTS).unlink()
    assert "late" not in run.checkpoints[0].metrics
    assert run.events.last_generation() == 0


def test_a_second_listing_reads_only_the_manifests_that_changed(path: Path) -> None:
    make_run(path, *range(1, 11))
    with counted():
        run = Run.open(path)
        assert len(run.checkpoints) == len(store_of(run).manifests) == 10
        store_of(run).forget()
        assert len(run.listing().checkpoints) == 10
        assert store_of(run).manifests == []
        manifest = path / "checkpoint-4" / "keepstep.json"
        manifest.write_bytes(manifest.read_bytes().replace(b'"step": 4', b'"step": 5'))
        assert [foreign.path.name for foreign in run.foreign] == ["checkpoint-4"]
        assert store_of(run).manifests == ["checkpoint-4/keepstep.json"]


def test_a_checkpoint_is_joined_with_its_late_metrics_once(path: Path) -> None:
    run = make_run(path, 1, 2)
    first, second = run.checkpoints
    joiner, late = Joiner(), {1: {"late": 1.0}}
    joined = joiner.join((first, second), late)
    assert joined[0].metrics == {**first.metrics, "late": 1.0} and joined[1] is second
    assert joiner.join((first, second), late)[0] is joined[0]
    assert joiner.join((replace(first, epoch=7.0),), late)[0].epoch == 7.0
    assert joiner.join((first,), {1: {"late": 2.0}})[0].metrics["late"] == 2.0


def test_names_that_change_places_are_told_apart(path: Path) -> None:
    make_run(path, 1, 2, 3)
    with counted():
        run = Run.open(path)
        assert steps(run) == [1, 2, 3]
        shutil.rmtree(path / "checkpoint-1")
        (path / "checkpoint-2").rename(path / "checkpoint-1")
        (path / "checkpoint-3").rename(path / "checkpoint-2")
        assert steps(run) == []
        assert [foreign.path.name for foreign in run.foreign] == ["checkpoint-1", "checkpoint-2"]
        (path / "checkpoint-2").rename(path / "checkpoint-3")
        os.symlink("checkpoint-3", path / "checkpoint-2")
        assert steps(run) == [3]
        manifest = path / "checkpoint-3" / "keepstep.json"
        manifest.rename(path / "elsewhere")
        manifest.symlink_to(path / "elsewhere")
        assert steps(run) == []


def test_a_change_within_the_same_moment_is_seen(path: Path) -> None:
    """Same size, same inode, same times: as on a file system whose clock ticks once a second."""
    run = make_run(path, 1, 2)
    manifest = manifest_of(run.checkpoints[0])
    before = manifest.stat()
    manifest.write_bytes(manifest.read_bytes().replace(b'"generation": 1', b'"generation": 7'))
    real = os.lstat

    def coarse(target: str) -> os.stat_result:
        found = real(target)
        return before if found.st_ino == before.st_ino else found

    with patch("keepstep.stores.local.os.lstat", coarse):
        assert [foreign.path.name for foreign in run.foreign] == ["checkpoint-1"]


def test_generations_go_on_after_another_process_had_the_lock(path: Path) -> None:
    run, other = make_run(path, 1, 2), Run.open(path)
    with run.writing():
        assert run.next_generation() == run.next_generation() == 3
    checkpointer = make_checkpointer(path)
    checkpointer.begin("auto")
    assert save(checkpointer, 3, 0.5).generation == 3
    checkpointer.close()
    (path / layout.EVENTS).unlink()
    with run.writing():
        assert run.next_generation() == 4
    with other.writing():
        other.rewind(other.find(1))
        assert other.next_generation() == 4


def test_a_save_after_the_first_looks_at_nothing_aside(path: Path) -> None:
    with training(path, 3) as checkpointer:
        store = store_of(checkpointer.run)
        save(checkpointer, 5, 0.5)
        assert layout.QUARANTINE not in store.listed


def test_where_the_bytes_are_is_found_with_one_read_of_each_manifest(path: Path) -> None:
    make_run(path, *range(1, 21))
    with counted():
        run = Run.open(path)
        found = usage(run)

    assert sorted(store_of(run).manifests) == sorted(f"checkpoint-{step}/keepstep.json" for step in range(1, 21))
    assert len(found.shares) == 20
