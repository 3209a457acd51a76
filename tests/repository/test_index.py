"""Manifests of a long run are read once for all processes of a user, and again where their files have changed."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from keepstep.model import Checkpoint
from keepstep.repository import MANIFEST_NAME, Repository
from keepstep.repository.index import Index
from keepstep.stores import LocalStore
from tests.small_run import make_checkpointer, make_run, manifest_of, save

STEPS = (10, 20, 30, 40)


class Read(LocalStore):
    """Counts the manifests that are read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.manifests: list[str] = []

    def read(self, path: str, *, limit: int) -> bytes:
        if path.endswith(MANIFEST_NAME):
            self.manifests.append(path)
        return super().read(path, limit=limit)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if a few were many, and all of them old."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("keepstep.repository.catalog.FEWEST", 3)
    monkeypatch.setattr("keepstep.repository.catalog.SETTLED_NS", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = make_run(tmp_path / "run", *STEPS).path
    time.sleep(0.02)  # the clock of the file system is behind
    return made


def listed(path: Path) -> tuple[tuple[Checkpoint, ...], int]:
    """What another process lists, and how many manifests it reads for that."""
    store = Read(path)
    run_id = (path / ".keepstep" / "run.json").read_text().split('"run_id": "')[1].split('"')[0]
    found = Repository(store, run_id).listing().checkpoints
    return found, len(store.manifests)


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.manifests"))


def test_the_second_process_reads_none_and_lists_the_same(path: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    first, read = listed(path)
    assert read == len(STEPS) == len(first)
    again, read = listed(path)
    assert (again, read) == (first, 0)
    assert [c.path for c in again] == [path / c.name for c in again]
    assert os.stat(kept(tmp_path)[0].parent).st_mode & 0o77 == 0
    assert not [name for name in os.listdir(path / ".keepstep") if "manifests" in name]


def test_what_is_new_or_another_is_read_and_what_is_gone_is_gone(path: Path) -> None:
    listed(path)
    checkpointer = make_checkpointer(path)
    checkpointer.begin("auto")
    save(checkpointer, 50, 0.1)
    checkpointer.close()
    time.sleep(0.02)
    shutil.rmtree(path / "checkpoint-10")
    other = (path / "checkpoint-20" / MANIFEST_NAME).read_bytes()
    (path / "checkpoint-30" / MANIFEST_NAME).write_bytes(other)
    found, read = listed(path)
    assert [c.step for c in found] == [20, 40, 50]
    assert read == 2


def test_a_change_that_keeps_the_size_and_the_time_of_the_bytes_is_seen(path: Path) -> None:
    listed(path)
    manifest = path / "checkpoint-20" / MANIFEST_NAME
    before, data = manifest.stat(), bytearray(manifest.read_bytes())
    data[-20] ^= 1
    manifest.write_bytes(data)
    os.utime(manifest, ns=(before.st_atime_ns, before.st_mtime_ns))
    found, read = listed(path)
    assert ([c.step for c in found], read) == ([10, 30, 40], 1)


def test_bytes_that_rot_in_a_manifest_are_found_by_a_check(path: Path) -> None:
    found, _ = listed(path)
    store, index = LocalStore(path), Index.of_user(path)
    known = index.recall(store.local_path)
    manifest = path / "checkpoint-20" / MANIFEST_NAME
    data = bytearray(manifest.read_bytes())
    data[-20] ^= 1
    manifest.write_bytes(data)
    stamp = store.stamp(f"checkpoint-20/{MANIFEST_NAME}")
    assert stamp is not None
    index.keep({**known, "checkpoint-20": (stamp, known["checkpoint-20"][1])})
    again, read = listed(path)
    assert (again, read) == (found, 0)
    repository = Repository(store, found[0].run_id)
    problems = {c.step: [p.path for p in repository.verify(c).problems] for c in again}
    assert problems == {10: [], 20: [MANIFEST_NAME], 30: [], 40: []}


@pytest.mark.parametrize("place", [0, 20, -1])
def test_a_cache_that_was_changed_says_nothing(path: Path, tmp_path: Path, place: int) -> None:
    first, _ = listed(path)
    (file,) = kept(tmp_path)
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
    assert listed(path) == (first, len(STEPS))
    file.write_bytes(file.read_bytes()[:-7])
    assert listed(path) == (first, len(STEPS))
    assert listed(path) == (first, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_another_user_wrote_says_nothing(path: Path, tmp_path: Path) -> None:
    first, _ = listed(path)
    os.chown(kept(tmp_path)[0], 12345, 12345)
    assert listed(path) == (first, len(STEPS))


def test_a_run_that_was_copied_or_has_taken_the_place_of_another_is_read(path: Path, tmp_path: Path) -> None:
    listed(path)
    shutil.copytree(path, tmp_path / "copy")
    assert listed(tmp_path / "copy")[1] == len(STEPS)
    path.rename(tmp_path / "away")
    (tmp_path / "copy").rename(path)
    assert listed(path)[1] == len(STEPS)
    assert listed(path)[1] == 0


def test_short_runs_young_manifests_and_who_asks_for_none_keep_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    monkeypatch.setattr("keepstep.repository.catalog.FEWEST", 50)
    listed(path)
    monkeypatch.setattr("keepstep.repository.catalog.FEWEST", 3)
    monkeypatch.setattr("keepstep.repository.catalog.SETTLED_NS", 10**12)
    listed(path)
    monkeypatch.setattr("keepstep.repository.catalog.SETTLED_NS", 0)
    with monkeypatch.context() as patched:
        patched.setenv("KEEPSTEP_NO_CACHE", "1")
        listed(path)
    assert kept(tmp_path) == []
    listed(path)
    assert len(kept(tmp_path)) == 1


def test_numbers_that_no_cache_holds_are_no_error(path: Path, tmp_path: Path) -> None:
    found, _ = listed(path)
    store, index = LocalStore(path), Index(tmp_path / "other", path)
    stamp = store.stamp(f"{found[0].name}/{MANIFEST_NAME}")
    assert stamp is not None and manifest_of(found[0]).is_file()
    index.keep({found[0].name: (stamp, replace(found[0], fingerprint={"seed": 2**80}))})
    assert index.recall(store.local_path) == {}
    index.keep({found[0].name: (stamp, replace(found[0], metrics={"loss": float("inf")}))})
    assert index.recall(store.local_path)[found[0].name][1].metrics == {"loss": float("inf")}
