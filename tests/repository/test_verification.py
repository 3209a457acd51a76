"""Damage of every kind is found, in the file where it is."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from keepstep.model import CHUNK_BYTES, FileEntry
from keepstep.repository import Verification, verify_files
from keepstep.repository.manifest import digest_of
from keepstep.repository.verification import sealed
from keepstep.run import Run
from keepstep.stores import Entry, LocalStore
from keepstep.stores.memory import MemoryStore
from tests.small_run import FILES, make_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", 2, 4)


def check(run: Run) -> Verification:
    return run.verify(run.checkpoints[-1])


def newest(run: Run) -> Path:
    path = run.checkpoints[-1].path
    assert path is not None
    return path


def test_an_undamaged_checkpoint_is_good(run: Run) -> None:
    seen: list[int] = []
    verification = run.verify(run.checkpoints[-1], seen.append)
    assert verification.ok
    assert verification.summary() == "checkpoint-4 (generation 2) is good"
    assert sum(seen) == run.checkpoints[-1].size_bytes


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_at_every_offset(run: Run, name: str) -> None:
    path = newest(run) / name
    data = path.read_bytes()
    for offset in range(len(data)):
        path.write_bytes(data[:offset] + bytes([data[offset] ^ (1 << offset % 8)]) + data[offset + 1 :])
        assert [problem.path for problem in check(run).problems] == [name]
    path.write_bytes(data)
    assert check(run).ok


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_found(run: Run, name: str) -> None:
    path = newest(run) / name
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        assert [str(problem) for problem in check(run).problems] == [f"{name} has {size} bytes instead of 200"]


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def become_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_a_link_to_the_same_bytes(path: Path) -> None:
    real = path.parents[3] / "elsewhere"
    path.rename(real)
    path.symlink_to(real)


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "damage", [zero, append, Path.unlink, become_a_directory, become_a_link_to_the_same_bytes, become_a_pipe]
)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_once(run: Run, name: str, damage: Callable[[Path], None]) -> None:
    damage(newest(run) / name)
    assert [problem.path for problem in check(run).problems] == [name]


def test_what_took_a_files_place_is_said(run: Run) -> None:
    become_a_directory(newest(run) / FILES[0])
    become_a_link_to_the_same_bytes(newest(run) / FILES[1])
    assert [problem.what for problem in check(run).problems] == [
        "is a directory, not a regular file",
        "is a link, not a regular file",
    ]


def test_files_of_the_same_size_that_were_swapped_are_both_named(run: Run) -> None:
    one, other = (newest(run) / name for name in FILES)
    first, second = one.read_bytes(), other.read_bytes()
    assert len(first) == len(second)
    one.write_bytes(second)
    other.write_bytes(first)
    assert [problem.path for problem in check(run).problems] == list(FILES)


def test_a_file_of_another_checkpoint_is_found(run: Run) -> None:
    other = run.checkpoints[0].path
    assert other is not None
    shutil.copy(other / FILES[0], newest(run) / FILES[0])
    assert [problem.path for problem in check(run).problems] == [FILES[0]]


def extra_file(directory: Path) -> str:
    (directory / "state" / "extra.bin").write_bytes(b"")
    return "state/extra.bin"


def extra_directory(directory: Path) -> str:
    (directory / "extra").mkdir()
    return "extra"


def extra_link(directory: Path) -> str:
    (directory / "extra").symlink_to("model.bin")
    return "extra"


def extra_pipe(directory: Path) -> str:
    os.mkfifo(directory / "extra")
    return "extra"


def second_manifest(directory: Path) -> str:
    (directory / "state" / "keepstep.json").write_bytes(b"{}")
    return "state/keepstep.json"


@pytest.mark.parametrize("plant", [extra_file, extra_directory, extra_link, extra_pipe, second_manifest])
def test_what_is_too_much_is_named(run: Run, plant: Callable[[Path], str]) -> None:
    path = plant(newest(run))
    assert [problem.path for problem in check(run).problems] == [path]


def test_what_operating_systems_drop_is_tolerated(run: Run) -> None:
    (newest(run) / ".DS_Store").write_bytes(b"x")
    (newest(run) / "state" / ".nfs0001").write_bytes(b"x")
    assert check(run).ok


def test_a_directory_behind_a_link_is_not_followed(run: Run, tmp_path: Path) -> None:
    (newest(run) / "state").rename(tmp_path / "elsewhere")
    (newest(run) / "state").symlink_to(tmp_path / "elsewhere")
    assert [problem.path for problem in check(run).problems] == ["state/optimizer.bin", "state"]


def test_a_checkpoint_that_vanished_lacks_every_file(run: Run) -> None:
    checkpoint = run.checkpoints[-1]
    shutil.rmtree(newest(run))
    assert {problem.path for problem in run.verify(checkpoint).problems} == set(FILES)


LARGE = 2 * CHUNK_BYTES + 77


@pytest.fixture
def large(tmp_path: Path) -> tuple[LocalStore, FileEntry]:
    """A file of three chunks in the directory `c`."""
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "f").write_bytes(bytes(range(256)) * (LARGE // 256) + bytes(LARGE % 256))
    store = LocalStore(tmp_path)
    return store, sealed(store, "c/f", "f", LARGE)


def test_a_large_file_is_sealed_by_its_chunks(large: tuple[LocalStore, FileEntry]) -> None:
    store, entry = large
    data = store.local_path("c/f").read_bytes()
    assert entry.digest == digest_of(data)
    starts = range(0, LARGE, CHUNK_BYTES)
    assert entry.chunk_digests == tuple(digest_of(data[start : start + CHUNK_BYTES]) for start in starts)
    heard: list[int] = []
    assert verify_files(store, "c", [entry], heard.append) == ()
    assert sum(heard) == LARGE


@pytest.mark.parametrize("chunks_known", [True, False])
@pytest.mark.parametrize("offset", [0, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES, LARGE - 1])
def test_damage_in_a_large_file_is_named(large: tuple[LocalStore, FileEntry], offset: int, chunks_known: bool) -> None:
    store, entry = large
    with store.local_path("c/f").open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    known = entry if chunks_known else msgspec.structs.replace(entry, chunks="")
    (problem,) = verify_files(store, "c", [known])
    where = f"chunk {offset // CHUNK_BYTES}, " if chunks_known else "(digest differs)"
    assert problem.path == "f" and where in problem.what and str(store.root) not in problem.what


def test_a_large_file_that_can_not_be_opened_is_a_problem(large: tuple[LocalStore, FileEntry]) -> None:
    store, entry = large

    class Vanishing(LocalStore):
        """Lists a file that is gone, or another thing, when it is opened."""

        def walk(self, path: str) -> list[Entry]:
            return [Entry("f", "file", LARGE)]

    path = store.local_path("c/f")
    path.unlink()
    for plant in (lambda: None, lambda: os.mkfifo(path), lambda: path.unlink() or path.symlink_to("g")):
        plant()
        (problem,) = verify_files(Vanishing(store.root), "c", [entry])
        assert problem.what.startswith("can't be read: ")


def test_other_stores_are_read_from_front_to_back() -> None:
    store = MemoryStore()
    store.put("c/f", bytes(LARGE))
    entry = sealed(store, "c/f", "f", LARGE)
    assert len(entry.chunk_digests or ()) == 3
    assert verify_files(store, "c", [entry]) == ()
    store.put("c/f", bytes(LARGE - 1) + b"x")
    assert [problem.path for problem in verify_files(store, "c", [entry])] == ["f"]


class Unreadable(LocalStore):
    def chunks(self, path: str, *, size: int) -> None:  # type: ignore[override]
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)


class Unlistable(LocalStore):
    def walk(self, path: str) -> None:  # type: ignore[override]
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)


def test_what_the_disk_refuses_to_show_is_a_problem_and_no_error(run: Run) -> None:
    files = run.checkpoints[-1].files
    unread = verify_files(Unreadable(run.path), "checkpoint-4", files)
    assert [str(problem) for problem in unread] == [f"{name} can't be read: Input/output error" for name in FILES]
    unlisted = verify_files(Unlistable(run.path), "checkpoint-4", files)
    assert [str(problem) for problem in unlisted] == [". can't be listed: Permission denied"]
